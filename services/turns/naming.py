"""Which turn a request is: a new one, or by its idempotency key the one that it began when it was sent before."""

from __future__ import annotations

from typing import Final

from cluster.errors import IdempotencyMismatchError, NoReplicaError, NotFoundError, OverloadedError
from services.conversations import ids
from services.conversations.records import TurnRecord, TurnState
from services.conversations.store import ConversationStore, Reservation
from services.turns.events import StoredTurn
from services.turns.place import root_of

_REFUSALS: Final = {OverloadedError.code, NoReplicaError.code}


async def name_turn(
    store: ConversationStore, turn: StoredTurn, *, instead_of: Reservation | None = None
) -> tuple[str, bool]:
    """The turn's id, and whether it has begun by a request that was sent before.

    A turn that found no room was told to come again: its key then stands for a new one (``instead_of`` the old).

    Raises:
        NotFoundError: no such conversation; or the key's turn was erased.
        PreviousResponseError: no such earlier answer.
        IdempotencyMismatchError: the key was used for another request.
        StoreUnavailableError: the store does not answer.
    """
    response_id = ids.new_response(root_of(turn))
    if turn.idempotency is None:
        return response_id, False
    key, mine = turn.idempotency.key, Reservation(turn.idempotency.body, response_id)
    held = await store.reserve(turn.tenant, key, mine, instead_of=instead_of)
    if held.body != mine.body:
        raise IdempotencyMismatchError
    record = None if held.turn == response_id else await _begun(store, turn.tenant, held.turn)
    if record is not None and _was_refused(record) and instead_of is None:
        return await name_turn(store, turn, instead_of=held)
    return held.turn, record is not None


async def _begun(store: ConversationStore, tenant: str, response_id: str) -> TurnRecord | None:
    """The record of a turn that a key stands for; None: its process died before it began."""
    try:
        return await store.turn(tenant, response_id)
    except NotFoundError:
        if await store.is_erased(tenant, response_id):
            raise
        return None


def _was_refused(record: TurnRecord) -> bool:
    """Whether nobody took the turn, so that whoever asked was told to come again before anything was said.

    One in the background was accepted: who asked has its id.
    """
    is_silent = record.state is TurnState.FAILED and not record.total and not record.request.is_background
    return is_silent and record.error_code in _REFUSALS
