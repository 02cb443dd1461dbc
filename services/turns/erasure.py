"""Erasure of what a tenant wants gone: the record first, then its KV pages on every replica.

The record comes first because its tombstone is what stops the turns that run: their owners hear of it with their next
note, and no other turn begins. Then every replica forgets the pages; those of a turn still running go when it ends. A
turn that its owner moves in between, before it has heard, may still leave pages where everything was forgotten
already, so the replicas are told once more when no such owner can be left.

A replica that does not answer (frozen, busy with one long step, about to die) does not fail the erasure: it is counted
as missed, and told again until it answers or Serve does not list it any more, and its memory is gone. What is still to
be told is kept in this process only; when that dies, a missed replica keeps unreachable pages until it needs the room.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cluster.protocol import Label
from services.backend.base import SOMEBODY, Backend, Erased
from services.conversations import ids
from services.conversations.store import ConversationStore
from services.turns.pin import conversation_key

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ErasureSettings:
    """How erasures are repeated.

    Attributes:
        retry_s: pause before missed replicas are told again.
        settle_s: after an erasure, when no owner runs that has not heard of it: longer than the lease of a turn and the
            time for which it outlives a store that it cannot reach (``JournalSettings``).
        max_pending: labels still to be told; beyond it the oldest are given up.
        max_labels: told in one call.
    """

    retry_s: float = 2.0
    settle_s: float = 90.0
    max_pending: int = 10_000
    max_labels: int = 256


@dataclass(slots=True)
class _Pending:
    """A label: when it is told next, from when on everybody's answer is the last, and who did not answer yet."""

    next_at: float
    settled_at: float
    is_missed: bool = True


class Eraser:
    """Erases for one process. ``start`` before the first erasure, ``stop`` after the last.

    Args:
        store: holds the records.
        backend: reaches the replicas.
        settings: how often.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: ConversationStore,
        backend: Backend,
        settings: ErasureSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._backend = backend
        self._settings = settings or ErasureSettings()
        self._clock = clock
        self._pending: dict[Label, _Pending] = {}  # the oldest first
        self._telling: asyncio.Task[None] | None = None

    @property
    def num_pending(self) -> int:
        """Labels that some replica is still to be told."""
        return len(self._pending)

    async def start(self) -> None:
        """Begin to tell again what has to be told again."""
        self._telling = asyncio.get_running_loop().create_task(self._tell_again(), name="eraser")

    async def stop(self) -> None:
        """Give up what is still to be told."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait({self._telling})
        if missed := sum(pending.is_missed for pending in self._pending.values()):
            _log.warning("erasure.given_up", labels=missed, reason="stop")

    async def erase_conversation(self, tenant: str, conversation: str) -> Erased:
        """Erase a conversation with all its turns and branches, and say what of its KV was dropped.

        Raises:
            NotFoundError: there is no such conversation.
            StoreUnavailableError: the store does not answer; nothing was forgotten.
        """
        await self._store.delete(tenant, conversation)
        key = conversation_key(tenant, ids.conversation_root(conversation))
        return await self.forget(Label(tenant=tenant, pin_key=key))

    async def forget(self, label: Label) -> Erased:
        """Drop a label's KV on every replica, now and, where that was not all, later. Its record must be gone."""
        now = self._clock()
        self._pending.pop(label, None)
        self._pending[label] = _Pending(next_at=now, settled_at=now + self._settings.settle_s)
        self._bound()
        return await self._tell([label])

    async def _tell(self, labels: list[Label]) -> Erased:
        began = self._clock()
        erased = await self._forget(labels)
        for label in labels:
            if pending := self._pending.get(label):
                self._settle(label, pending, began, is_missed=bool(erased.missed))
        _log.info(
            "erasure.told",
            labels=len(labels),
            dropped=erased.dropped,
            held=erased.held,
            reached=len(erased.reached),
            missed=sorted(erased.missed),
        )
        return erased

    async def _forget(self, labels: list[Label]) -> Erased:
        try:
            return await self._backend.forget(labels)
        except Exception:  # noqa: BLE001 - the record is gone: the answer must not be that nothing was erased
            _log.exception("erasure.crashed")
            return Erased(missed=SOMEBODY)

    def _settle(self, label: Label, pending: _Pending, began: float, *, is_missed: bool) -> None:
        pending.is_missed = is_missed
        if is_missed:
            pending.next_at = began + self._settings.retry_s
        elif began < pending.settled_at:
            pending.next_at = pending.settled_at
        else:
            del self._pending[label]

    def _bound(self) -> None:
        while len(self._pending) > self._settings.max_pending:
            del self._pending[next(iter(self._pending))]
            _log.warning("erasure.given_up", labels=1, reason="too_many")

    async def _tell_again(self) -> None:
        while True:
            await asyncio.sleep(self._settings.retry_s)
            now = self._clock()
            due = [label for label, pending in self._pending.items() if pending.next_at <= now]
            if due:
                await self._tell(due[: self._settings.max_labels])
