"""What a dead owner left behind, brought to an end so that its conversation is free again.

Its journal holds what the client was sent, a quarter of a second aside. That becomes the answer, marked incomplete, and
the question stays in the history: an accepted turn is not forgotten.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import structlog

from cluster.errors import ConversationBusyError, NotFoundError, TurnLostError
from cluster.protocol import FinishReason
from services.conversations.records import TurnRecord, TurnState
from services.conversations.store import Commit, Tail, Verdict
from services.turns.answer import answer_items
from services.turns.parts import TurnParts
from services.turns.projection import Projection

_log = structlog.get_logger(__name__)

_OWNER_BYTES = 16


def new_owner() -> str:
    """A lease's token: 128 random bits, hex."""
    return secrets.token_hex(_OWNER_BYTES)


async def close_orphan(parts: TurnParts, tenant: str, turn: str) -> None:
    """Take an expired turn over and commit its journal as ``incomplete``. Ended meanwhile: nothing to do.

    Raises:
        ConversationBusyError: its owner, or another adopter, lives.
        StoreUnavailableError: the store does not answer.
    """
    owner = new_owner()
    reply = await parts.store.claim(tenant, turn, owner=owner, lease_s=parts.settings.journal.lease_s)
    if reply.verdict is Verdict.LIVE:
        raise ConversationBusyError(turn)
    if reply.verdict is not Verdict.OK:
        return
    try:
        record = await parts.store.turn(tenant, turn)
        commit = await _ending(parts, tenant, owner, record)
    except NotFoundError:  # erased meanwhile
        return
    reply = await parts.store.commit(commit)
    _log.info("turn.adopted", turn=turn, ids=len(commit.ids), verdict=reply.verdict.value)


async def _ending(parts: TurnParts, tenant: str, owner: str, record: TurnRecord) -> Commit:
    (tailed,) = await parts.store.tail([Tail(tenant, record.id)])
    if tailed.is_broken:  # nobody can say what the client was sent
        error = TurnLostError(f"The journal of {record.id} has a hole: the store has lost writes.")
        return replace(
            _commit(parts, tenant, owner, record, ()),
            state=TurnState.FAILED,
            items=(),
            finish=FinishReason.FAILED,
            error_code=error.code,
            error_message=str(error),
        )
    return _commit(parts, tenant, owner, record, tailed.ids)


def _commit(parts: TurnParts, tenant: str, owner: str, record: TurnRecord, journal: Sequence[int]) -> Commit:
    projection = Projection(parts.tokenizer, record.request.stop)
    projection.push(journal)
    projection.close()
    window = record.request.window
    answer = answer_items(record.id, projection, projection.answer_ids(), is_whole=False, window=window)
    return Commit(
        tenant=tenant,
        turn=record.id,
        conversation=record.conversation,
        owner=owner,
        state=TurnState.INCOMPLETE,
        base_version=record.base_version,
        items=[*record.request.input, *answer],
        ids=projection.ids,
        finish=FinishReason.ABORTED,
        usage={"prompt_tokens": record.request.prompt_tokens, "cached_tokens": 0, "output_tokens": len(projection.ids)},
    )
