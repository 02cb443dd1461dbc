"""A stored turn's way in: load the conversation, make the turn ready, begin its record.

Nothing is written before the request is known to be good. An OK of ``begin`` is the acceptance: from then on the turn
has a record, a lease and an end, whatever happens to this process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from cluster.errors import ClusterError, ConversationBusyError, NotFoundError
from services.conversations import ids
from services.conversations.records import Item, Line, TurnRequest
from services.conversations.store import Begin, Reply, Verdict
from services.turns.adoption import close_orphan, new_owner
from services.turns.draft import Draft, draft_stored
from services.turns.events import Message, StoredTurn
from services.turns.parts import TurnParts
from services.turns.prompt import digest
from services.turns.recall import recall

_MAX_TRIES = 3  # as loaded; after an orphan was closed; after the line moved on


@dataclass(frozen=True, slots=True)
class Accepted:
    """A turn that has begun.

    Attributes:
        response_id: ``resp_…``.
        conversation: ``conv_…`` of its line, listed or not.
        owner: token of the lease.
        base_version: of the line, when it began.
        sent_at: when the acknowledged ``begin`` was sent (monotonic).
        created_at: unix seconds.
        items: the input, as it will be appended.
        draft: ready to be generated.
    """

    response_id: str
    conversation: str
    owner: str
    base_version: int
    sent_at: float
    created_at: int
    items: Sequence[Item]
    draft: Draft


async def accept(parts: TurnParts, turn: StoredTurn) -> Accepted:
    """Begin the turn.

    Raises:
        InvalidRequestError, ContextLengthExceededError: the request cannot be served; nothing was written.
        NotFoundError: no such conversation.
        ConversationBusyError: another turn of it is running.
        StoreUnavailableError: the store does not answer.
    """
    conversation = turn.conversation or ids.new_conversation()
    response_id = ids.new_response(conversation)
    items = _items(conversation, response_id, turn.input)
    reply = Reply(Verdict.BUSY)
    for _ in range(_MAX_TRIES):
        accepted, reply = await _try(parts, turn, conversation, response_id, items)
        if reply.verdict is Verdict.OK:
            return accepted
        if reply.verdict is Verdict.EXPIRED:
            await close_orphan(parts, turn.tenant, reply.turn)
        elif reply.verdict is not Verdict.VERSION:
            break
    raise _refusal(reply, conversation)


async def _try(
    parts: TurnParts, turn: StoredTurn, conversation: str, response_id: str, items: Sequence[Item]
) -> tuple[Accepted, Reply]:
    past = await recall(parts, turn)
    line = past.line
    draft = await draft_stored(parts, turn, conversation, past, items)
    accepted = Accepted(
        response_id=response_id,
        conversation=conversation,
        owner=new_owner(),
        base_version=line.version if line else 0,
        sent_at=parts.clock(),
        created_at=int(time.time()),
        items=items,
        draft=draft,
    )
    return accepted, await parts.store.begin(_begin(parts, turn, accepted, line))


def _begin(parts: TurnParts, turn: StoredTurn, accepted: Accepted, line: Line | None) -> Begin:
    return Begin(
        tenant=turn.tenant,
        turn=accepted.response_id,
        conversation=accepted.conversation,
        owner=accepted.owner,
        base_version=accepted.base_version,
        lease_s=parts.settings.journal.lease_s,
        deadline_s=parts.settings.deadline_s,
        request=_record(parts, turn, accepted),
        new_line=line is None,
    )


def _record(parts: TurnParts, turn: StoredTurn, accepted: Accepted) -> TurnRequest:
    request = accepted.draft.request
    return TurnRequest(
        request_id=turn.request_id,
        input=list(accepted.items),
        instructions=turn.instructions,
        sampling=msgspec.msgpack.encode(request.sampling),
        stop=list(turn.options.stop),
        prompt_digest=digest(request.prompt_ids),
        prompt_tokens=accepted.draft.prompt_tokens,
        model=parts.model.name,
        metadata=turn.metadata,
        truncation=turn.truncation.value,
        window=accepted.draft.window,
    )


def _items(conversation: str, response_id: str, messages: Sequence[Message]) -> list[Item]:
    now = int(time.time())
    return [
        Item(id=ids.new_item(conversation), role=m.role.value, text=m.text, turn=response_id, created_at=now)
        for m in messages
    ]


def _refusal(reply: Reply, conversation: str) -> ClusterError:
    if reply.verdict in {Verdict.ABSENT, Verdict.GONE}:
        return NotFoundError("conversation", conversation)
    return ConversationBusyError(reply.turn or "another turn")
