"""A stored turn's way in: find its place, read what was said there, make the turn ready, begin its record.

Nothing is written before the request is known to be good, but for a note that the turn will be looked at: it comes
first, so that a record whose maker dies is never forgotten. An OK of ``begin`` is the acceptance: from then on the turn
has a record, a lease and an end, whatever happens to this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import msgspec

from cluster.errors import (
    ClusterError,
    ConversationBusyError,
    NotFoundError,
    PreviousResponseDeletedError,
    StoreUnavailableError,
)
from services.conversations import ids
from services.conversations.records import Item, TurnRequest, TurnState
from services.conversations.store import Begin, Reply, Verdict
from services.turns.accepted import Accepted, TurnExistsError
from services.turns.draft import Draft, draft_stored
from services.turns.events import Message, StoredTurn
from services.turns.leases import new_owner
from services.turns.orphans import close_orphan
from services.turns.parts import TurnParts
from services.turns.place import Place, find_place
from services.turns.projection import VERSION
from services.turns.prompt import digest
from services.turns.recall import Past, recall

_MAX_TRIES = 3  # as loaded; after an orphan was closed; after the line moved on
_AGAIN = {Verdict.EXPIRED, Verdict.VERSION}


async def accept(parts: TurnParts, turn: StoredTurn, response_id: str) -> Accepted:
    """Begin the turn under this id, whose root is that of its conversation or of the earlier answer.

    Raises:
        InvalidRequestError, ContextLengthExceededError: the request cannot be served; nothing was written.
        NotFoundError: no such conversation.
        PreviousResponseError: no such earlier answer.
        ConversationBusyError: another turn of the conversation is running.
        StoreUnavailableError: the store does not answer.
        TurnExistsError: this very turn has begun.
    """
    entry = _Entry(parts, turn, response_id)
    try:
        return await entry.accept()
    except StoreUnavailableError:  # a begin without a reply may have been carried out, or yet be: it stays due
        raise
    except ClusterError:
        with contextlib.suppress(StoreUnavailableError):
            await parts.due.remove(turn.tenant, response_id)
        raise


class _Entry:
    """One turn on its way in."""

    def __init__(self, parts: TurnParts, turn: StoredTurn, response_id: str) -> None:
        self._parts = parts
        self._turn = turn
        self._response_id = response_id
        self._conversation = ids.conversation_of(response_id)
        self._items = _items(self._conversation, response_id, turn.input)

    async def accept(self) -> Accepted:
        reply = Reply(Verdict.BUSY)
        for _ in range(_MAX_TRIES):
            place, past = await self._look()
            draft = await draft_stored(self._parts, self._turn, self._conversation, past, self._items)
            accepted = self._accepted(place, past, draft)
            reply = await self._parts.store.begin(accepted.begin)
            if reply.verdict is Verdict.OK:
                return accepted
            if not await self._may_try_again(place, reply):
                break
        raise self._refusal(reply)

    async def _look(self) -> tuple[Place, Past]:
        due = self._parts.due.add(self._turn.tenant, self._response_id, in_s=self._parts.settings.journal.lease_s)
        (place, past), _ = await asyncio.gather(self._read(), due)
        return place, past

    async def _read(self) -> tuple[Place, Past]:
        place = await find_place(self._parts.store, self._turn, self._conversation)
        return place, await recall(self._parts, self._turn, place)

    async def _may_try_again(self, place: Place, reply: Reply) -> bool:
        """Whether the same request, read again, may get in."""
        if reply.verdict is Verdict.EXISTS:
            raise TurnExistsError
        if self._turn.previous is not None and not place.is_new:
            return True  # somebody else goes on from that answer: the next look finds a branch
        if reply.verdict is Verdict.EXPIRED:
            if reply.value < self._parts.settings.orphan_s * 1000:
                return False
            await close_orphan(self._parts, self._turn.tenant, reply.turn)
        return reply.verdict in _AGAIN

    def _refusal(self, reply: Reply) -> ClusterError:
        if reply.verdict not in {Verdict.ABSENT, Verdict.GONE}:
            return ConversationBusyError(reply.turn or "another turn")
        if self._turn.conversation is not None:
            return NotFoundError("conversation", self._conversation)
        if self._turn.previous is not None and reply.verdict is Verdict.ABSENT:
            return PreviousResponseDeletedError(self._turn.previous)
        return NotFoundError("response", self._response_id)  # asked for before, by its key, and erased since

    def _accepted(self, place: Place, past: Past, draft: Draft) -> Accepted:
        version = past.line.version if past.line and not place.is_new else 0
        return Accepted(
            begin=self._begin(place, draft, version if place.version is None else place.version),
            sent_at=self._parts.clock(),
            created_at=int(time.time()),
            draft=draft,
            shown=self._turn.conversation,
            can_wait=self._turn.is_background,
        )

    def _begin(self, place: Place, draft: Draft, version: int) -> Begin:
        settings, is_background = self._parts.settings, self._turn.is_background
        return Begin(
            tenant=self._turn.tenant,
            turn=self._response_id,
            conversation=self._conversation,
            owner=new_owner(),
            base_version=version,
            lease_s=settings.journal.lease_s,
            deadline_s=settings.waiting_s if is_background else settings.deadline_s,
            request=self._record(draft),
            new_line=place.is_new,
            line=place.line,
            fork=place.fork,
            state=TurnState.QUEUED if is_background else TurnState.RUNNING,
            ttl_s=self._turn.share.history_ttl_s,
        )

    def _record(self, draft: Draft) -> TurnRequest:
        turn, request = self._turn, draft.request
        return TurnRequest(
            request_id=turn.request_id,
            input=list(self._items),
            instructions=turn.instructions,
            sampling=msgspec.msgpack.encode(request.sampling),
            stop=list(turn.options.stop),
            prompt_digest=digest(request.prompt_ids),
            prompt_tokens=draft.prompt_tokens,
            model=self._parts.model.name,
            metadata=turn.metadata,
            fingerprint=self._parts.model.fingerprint,
            projection=VERSION,
            priority=turn.share.priority,
            weight=turn.share.weight,
            is_background=turn.is_background,
            truncation=turn.truncation.value,
            window=draft.window,
            view=turn.view,
        )


def _items(conversation: str, response_id: str, messages: Sequence[Message]) -> list[Item]:
    now = int(time.time())
    return [
        Item(id=ids.new_item(conversation), role=m.role.value, text=m.text, turn=response_id, created_at=now)
        for m in messages
    ]
