"""Erasure of what a tenant wants gone: the record first, then its KV pages on every replica.

The record comes first because its tombstone is what stops the turns that run: their owners hear of it with their next
note, and no other turn begins. Then every replica forgets the pages; those of a turn still running go when it ends. A
turn that its owner moves in between, before it has heard, may still leave pages where everything was forgotten
already, so the replicas are told once more when no such owner can be left.

A replica that does not answer (frozen, busy with one long step, about to die) does not fail the erasure: it is counted
as missed, and told again until it answers or Serve does not list it any more, and its memory is gone. What is still to
be told is in the store, where any gateway finds it: one that dies, and an operator who has only the store, leave it to
the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from cluster.errors import StoreUnavailableError
from cluster.protocol import Label
from services.backend.base import SOMEBODY, Backend, Erased
from services.conversations.erasures import DueErasure, Erasure, Erasures
from services.conversations.records import Conversation
from services.turns.removal import Removal

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ErasureSettings:
    """How erasures are repeated.

    Attributes:
        retry_s: pause before missed replicas are told again, and between looks at what others have left to be told.
        settle_s: after an erasure, when no owner runs that has not heard of it: longer than the lease of a turn and the
            time for which it outlives a store that it cannot reach (``JournalSettings``).
        hide_s: what this gateway tells is hidden from others for so long; longer than telling takes.
        max_labels: told in one call.
    """

    retry_s: float = 2.0
    settle_s: float = 90.0
    hide_s: float = 10.0
    max_labels: int = 256


class Eraser:
    """Erases for one gateway, and tells what others have left to be told. ``start`` it, and ``stop`` it at the end.

    Args:
        removal: erases from the store.
        erasures: what replicas are to be told.
        backend: reaches the replicas.
        settings: how often.
    """

    def __init__(
        self, removal: Removal, erasures: Erasures, backend: Backend, settings: ErasureSettings | None = None
    ) -> None:
        self._removal = removal
        self._erasures = erasures
        self._backend = backend
        self._settings = settings or ErasureSettings()
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell what is to be told."""
        self._telling = asyncio.create_task(self._run(), name="eraser")

    async def stop(self) -> None:
        """Leave what is still to be told to others."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait({self._telling})

    async def erase_conversation(self, tenant: str, conversation: str) -> Erased:
        """Erase a conversation with all its turns and branches, and say what of its KV was dropped.

        Raises:
            NotFoundError: there is no such conversation.
            StoreUnavailableError: the store does not answer.
        """
        return await self._tell_now(await self._removal.conversation(tenant, conversation))

    async def erase_turn(self, tenant: str, turn: str) -> Erased:
        """Erase a turn and, unless they belong to a conversation, its items; what of its root's KV was dropped.

        Raises:
            NotFoundError: there is no such turn.
            StoreUnavailableError: the store does not answer.
        """
        return await self._tell_now(await self._removal.turn(tenant, turn))

    async def erase_item(self, tenant: str, conversation: str, item: str) -> Conversation:
        """Erase one item and its root's KV, for the item's text stands in it; the conversation without it.

        Raises:
            NotFoundError: no such conversation, or no such item in it.
            ConversationBusyError: a turn is active.
            StoreUnavailableError: the store does not answer.
        """
        changed, erasure = await self._removal.item(tenant, conversation, item)
        await self._tell_now(erasure)
        return changed

    async def _tell_now(self, erasure: Erasure) -> Erased:
        return await self._tell([DueErasure(erasure, 0.0)])

    async def _tell(self, due: Sequence[DueErasure]) -> Erased:
        erased = await self._forget(list({one.erasure.label: None for one in due}))
        with contextlib.suppress(StoreUnavailableError):  # then it is told again, when it is no longer hidden
            for one in due:
                await self._settle(one, is_missed=bool(erased.missed))
        _log.info(
            "erasure.told",
            labels=len(due),
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

    async def _settle(self, due: DueErasure, *, is_missed: bool) -> None:
        """When it is told next. ``age_s`` is from before this telling: what was dropped since may be there again."""
        if is_missed:
            await self._erasures.tell_again(due.erasure, in_s=self._settings.retry_s)
        elif due.age_s < self._settings.settle_s:
            await self._erasures.tell_again(due.erasure, in_s=self._settings.settle_s - due.age_s)
        else:
            await self._erasures.remove(due.erasure)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.retry_s)
            try:
                await self._tell_due()
            except StoreUnavailableError:
                continue  # a later look finds what this one did not
            except Exception:  # noqa: BLE001 - a bug in one look must not end all later ones
                _log.exception("erasure.look_failed")

    async def _tell_due(self) -> None:
        due = await self._erasures.due(limit=self._settings.max_labels, hide_s=self._settings.hide_s)
        if due:
            await self._tell(due)
