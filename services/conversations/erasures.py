"""What replicas are still to be told to forget, kept where every gateway finds it: whoever noted it may die.

An erasure is noted before its record goes and stays until everybody has heard of it for certain. Told too often, or of
a record that is still there, costs a prefill; told never would leave pages of what was erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cluster.protocol import Label
from services.conversations.keys import ERASURE_TTL_S, ERASURES, MAX_ERASURES
from services.conversations.redis_link import RedisLink
from services.conversations.timed_set import RedisTimedSet, TimedSet

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A label whose KV is to go; as text ``<tenant>:<pin key>:<erased at>``. ``erased_ms`` is the store's unix time."""

    label: Label
    erased_ms: int

    def __str__(self) -> str:
        return f"{self.label.tenant}:{self.label.pin_key}:{self.erased_ms}"

    @classmethod
    def parse(cls, text: str) -> Erasure:
        """Read what ``str`` wrote."""
        tenant, pin_key, erased_ms = text.split(":")
        return cls(Label(tenant=tenant, pin_key=pin_key), int(erased_ms))


@dataclass(frozen=True, slots=True)
class DueErasure:
    """An erasure that is to be told, and how long ago it was noted."""

    erasure: Erasure
    age_s: float


class Erasures:
    """The list. Every method raises StoreUnavailableError within four seconds when the store does not answer.

    Args:
        entries: erasures by the time at which they are told next.
    """

    def __init__(self, entries: TimedSet) -> None:
        self._entries = entries

    async def note(self, label: Label, *, in_s: float) -> Erasure:
        """A label that is being erased now; unless its maker says more of it, it is told in ``in_s`` seconds."""
        erasure = Erasure(label, await self._entries.now_ms())
        await self.tell_again(erasure, in_s=in_s)
        return erasure

    async def tell_again(self, erasure: Erasure, *, in_s: float) -> None:
        """It is told (once more) in ``in_s`` seconds."""
        if given_up := await self._entries.move(str(erasure), in_s=in_s):
            _log.warning("erasure.given_up", labels=given_up, reason="too_many")

    async def remove(self, erasure: Erasure) -> None:
        """Everybody has heard of it, or it did not come to pass."""
        await self._entries.remove(str(erasure))

    async def due(self, *, limit: int, hide_s: float) -> Sequence[DueErasure]:
        """At most ``limit`` that are to be told now; hidden from other gateways for ``hide_s``."""
        members = await self._entries.look(limit=limit, hide_s=hide_s)
        if not members:
            return []
        now_ms = await self._entries.now_ms()
        found = [Erasure.parse(member) for member in members]
        due = [DueErasure(one, (now_ms - one.erased_ms) / 1000) for one in found]
        return [one for one in due if not await self._is_too_old(one)]

    async def _is_too_old(self, due: DueErasure) -> bool:
        if due.age_s < ERASURE_TTL_S:
            return False
        _log.warning("erasure.given_up", labels=1, reason="too_old")
        await self.remove(due.erasure)
        return True


def redis_erasures(link: RedisLink) -> Erasures:
    """The list of a cluster."""
    return Erasures(RedisTimedSet(link, ERASURES, most=MAX_ERASURES, ttl_s=ERASURE_TTL_S))
