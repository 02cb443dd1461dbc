"""Answers of several replicas to one question, of as many as answer in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any


async def answers_by(calls: Sequence[Coroutine[Any, Any, bytes]], until: float) -> list[bytes]:
    """What has been answered when the loop's clock is at ``until``, in order; errors are no answers."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    return [answer for answer in answers if isinstance(answer, bytes)]
