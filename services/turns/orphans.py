"""Turns whose owner has died, or that wait for one: how to take them over, and how to end them with what there is.

The journal of a turn holds what its client was sent, a quarter of a second aside. Where nobody can go on from there, it
becomes the answer, marked incomplete, and the question stays in the history: an accepted turn is not forgotten.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from cluster.errors import ClusterError, ConversationBusyError, NotFoundError, TurnError, TurnLostError
from cluster.protocol import FinishReason
from services.conversations.records import Item, TurnRecord, TurnState
from services.conversations.store import Commit, Reply, Tail, Tailed, Verdict
from services.turns.answer import answer_items
from services.turns.leases import new_owner
from services.turns.parts import TurnParts
from services.turns.projection import Projection

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A turn that was taken over.

    Attributes:
        tenant: whose it is.
        record: as it is now.
        owner: token of the lease.
        sent_at: when the claim was sent (monotonic).
        journal: what there is of the answer.
        is_poison: it has outlived too many owners to be tried again.
    """

    tenant: str
    record: TurnRecord
    owner: str
    sent_at: float
    journal: Tailed
    is_poison: bool


async def claim(parts: TurnParts, tenant: str, turn: str) -> Claimed | Reply:
    """Take a turn over; or why not: LIVE, TERMINAL, ABSENT or GONE.

    From then on it is due when the lease is over: a job that brought it here may be settled by somebody else.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    owner, sent_at, lease_s = new_owner(), parts.clock(), parts.settings.journal.lease_s
    reply = await parts.store.claim(tenant, turn, owner=owner, lease_s=lease_s)
    if reply.verdict not in {Verdict.OK, Verdict.POISON}:
        return reply
    try:
        record, (journal,), _ = await asyncio.gather(
            parts.store.turn(tenant, turn),
            parts.store.tail([Tail(tenant, turn)]),
            parts.due.add(tenant, turn, in_s=lease_s),
        )
    except NotFoundError:  # erased meanwhile
        return Reply(Verdict.GONE)
    return Claimed(tenant, record, owner, sent_at, journal, reply.verdict is Verdict.POISON)


async def close_orphan(parts: TurnParts, tenant: str, turn: str) -> None:
    """Take an expired turn over and commit its journal as ``incomplete``. Ended meanwhile: nothing to do.

    Raises:
        ConversationBusyError: its owner, or another adopter, lives.
        StoreUnavailableError: the store does not answer.
    """
    claimed = await claim(parts, tenant, turn)
    if isinstance(claimed, Claimed):
        await end(parts, claimed, TurnState.INCOMPLETE)
    elif claimed.verdict is Verdict.LIVE:
        raise ConversationBusyError(turn)


async def end(parts: TurnParts, claimed: Claimed, state: TurnState, error: ClusterError | None = None) -> Verdict:
    """Commit what a claimed turn's journal holds: OK, or LOST and the like where it is no longer ours.

    A hole in it fails the turn: nobody can say what its client was sent.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    if claimed.journal.is_broken:
        state, error = TurnState.FAILED, holed(claimed)
    commit = _commit(parts, claimed, state, error)
    reply = await parts.store.commit(commit)
    _log.info("turn.closed", turn=commit.turn, state=state, ids=len(commit.ids), verdict=reply.verdict.value)
    if reply.verdict is not Verdict.LOST:
        await parts.due.remove(claimed.tenant, commit.turn)
    return reply.verdict


def holed(claimed: Claimed) -> TurnLostError:
    """Why a turn ends whose journal is not whole."""
    return TurnLostError(f"The journal of {claimed.record.id} has a hole: the store has lost writes.")


def poisoned() -> TurnError:
    """Why a turn that outlived too many owners ends."""
    return TurnError("The answer was given up: too many processes have died over it.")


def _answer(record: TurnRecord, projection: Projection) -> list[Item]:
    window = record.request.window
    return answer_items(record.id, projection, projection.answer_ids(), is_whole=False, window=window)


def _commit(parts: TurnParts, claimed: Claimed, state: TurnState, error: ClusterError | None) -> Commit:
    record = claimed.record
    projection = Projection(parts.tokenizer, record.request.stop)
    projection.push(claimed.journal.ids)
    projection.close()
    is_kept = state is TurnState.INCOMPLETE or (state is TurnState.CANCELLED and projection.text)
    return Commit(
        tenant=claimed.tenant,
        turn=record.id,
        conversation=record.conversation,
        owner=claimed.owner,
        state=state,
        base_version=record.base_version,
        items=[*record.request.input, *_answer(record, projection)] if is_kept else [],
        ids=projection.ids,
        finish=FinishReason.FAILED if state is TurnState.FAILED else FinishReason.ABORTED,
        usage={"prompt_tokens": record.request.prompt_tokens, "cached_tokens": 0, "output_tokens": len(projection.ids)},
        line=record.line,
        logprobs=claimed.journal.logprobs[: len(projection.ids)],
        error_code=error.code if error else "",
        error_message=str(error) if error else "",
    )
