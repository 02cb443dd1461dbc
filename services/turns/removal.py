"""Erasure from the store: the record, and what points to it. Replicas are told by others, of what is noted here.

What is noted comes first, so that it survives whoever is erasing; then the record, whose tombstone stops the turns that
run and keeps others from beginning. Pointers come last and only to keep things tidy: one that is left finds nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from cluster.errors import CallerError, StoreUnavailableError
from cluster.protocol import Label
from services.conversations import ids
from services.conversations.erasures import Erasure, Erasures
from services.conversations.queueing import DueIndex, Publishes
from services.conversations.records import Conversation
from services.conversations.store import ConversationStore
from services.turns.pin import conversation_key

TELL_S: Final = 5.0  # whoever erases has this long to tell the replicas; then a gateway does


class Removal:
    """Erases from the store. Replicas are told within seconds, by the caller or else by any gateway.

    Args:
        store: holds the records.
        queue: may point to turns.
        due: may point to turns.
        erasures: what replicas are to be told.
    """

    def __init__(self, store: ConversationStore, queue: Publishes, due: DueIndex, erasures: Erasures) -> None:
        self._store = store
        self._queue = queue
        self._due = due
        self._erasures = erasures

    async def conversation(self, tenant: str, conversation: str) -> Erasure:
        """Erase a conversation with all its turns and branches.

        Raises:
            NotFoundError: there is no such conversation.
            StoreUnavailableError: the store does not answer.
        """
        async with self._noted(tenant, ids.conversation_root(conversation)) as erasure:
            turns = await self._store.pointed_turns(tenant, conversation)
            await self._store.delete(tenant, conversation)
        await self._drop(tenant, turns)
        return erasure

    async def turn(self, tenant: str, turn: str) -> Erasure:
        """Erase a turn and, unless they belong to a conversation, its items. Raises as ``conversation``."""
        async with self._noted(tenant, ids.response_parts(turn)[0]) as erasure:
            await self._store.delete_turn(tenant, turn)
        await self._drop(tenant, [turn])
        return erasure

    async def item(self, tenant: str, conversation: str, item: str) -> tuple[Conversation, Erasure]:
        """Erase one item; the conversation without it.

        Raises:
            NotFoundError: no such conversation, or no such item in it.
            ConversationBusyError: a turn is active.
            StoreUnavailableError: the store does not answer.
        """
        async with self._noted(tenant, ids.conversation_root(conversation)) as erasure:
            changed = await self._store.delete_item(tenant, conversation, item)
        return changed, erasure

    @asynccontextmanager
    async def _noted(self, tenant: str, root: str) -> AsyncIterator[Erasure]:
        """An erasure under way; it stays noted where nobody can say whether it came to pass."""
        label = Label(tenant=tenant, pin_key=conversation_key(tenant, root))
        erasure = await self._erasures.note(label, in_s=TELL_S)
        try:
            yield erasure
        except CallerError:
            with contextlib.suppress(StoreUnavailableError):
                await self._erasures.remove(erasure)
            raise

    async def _drop(self, tenant: str, turns: Sequence[str]) -> None:
        """Forget pointers, while the store answers: whoever follows one meets the tombstone, or no record."""
        with contextlib.suppress(StoreUnavailableError):
            for turn in turns:
                await self._queue.drop(tenant, turn)
                await self._due.remove(tenant, turn)
