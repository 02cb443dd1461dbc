"""Keeps what Serve's controller said last, and asks at most once a second however many want to know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from cluster.errors import RetryLaterError
from services.serve_facts import ServeFacts, facts_of

CACHE_S = 1.0

Ask = Callable[[], Awaitable[Mapping[str, Any] | None]]  # the controller's details; None: it does not answer


class ServeWatch:
    """What the Serve controller knows of one application. Callers at the same time share one question."""

    def __init__(self, app_name: str, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._app_name = app_name
        self._ask = ask
        self._clock = clock
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._heard_at = float("-inf")
        self._facts: ServeFacts | None = None

    async def facts(self) -> tuple[ServeFacts, float]:
        """The last known facts, and for how many seconds the controller has not answered (0: it does).

        Raises:
            RetryLaterError: it has never answered.
        """
        await self._refresh()
        if self._facts is None:
            raise RetryLaterError("Ray Serve's controller does not answer; ask again in a moment.", retry_after_s=2)
        return self._facts, self._asked_at - self._heard_at

    async def running(self) -> int:
        """Replicas that take turns; the last known number when the controller does not answer."""
        await self._refresh()
        return self._facts.replicas.running if self._facts else 0

    async def _refresh(self) -> None:
        async with self._lock:
            if self._clock() - self._asked_at < CACHE_S:
                return
            self._asked_at = self._clock()
            details = await self._ask()
            if details is not None:
                self._facts = _following(self._facts, facts_of(details, self._app_name))
                self._heard_at = self._asked_at


def _following(before: ServeFacts | None, now: ServeFacts) -> ServeFacts:
    """For seconds after a deploy Serve names no deployments, while it builds the new ones; what ran before runs on."""
    if before is None or now.state != "DEPLOYING" or now.names_deployments:
        return now
    return replace(before, state=now.state, message=now.message)
