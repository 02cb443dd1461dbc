"""Where a stored turn stands: in a conversation, behind an earlier answer, or on a line of its own.

An answer is gone on from in place while it is the last thing on its line, the line is free, and nobody made it as a
conversation; else the turn begins a branch that shares all up to that answer. So two continuations of one answer never
meet, and a conversation holds only what was said in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import (
    ConversationBusyError,
    InvalidRequestError,
    NotFoundError,
    PreviousResponseDeletedError,
    PreviousResponseError,
)
from services.conversations import ids
from services.conversations.keys import MAIN_LINE
from services.conversations.records import TurnRecord, TurnState
from services.conversations.store import ConversationStore, Fork, Part
from services.turns.events import StoredTurn


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn stands.

    Attributes:
        conversation: ``conv_…`` of the root.
        line: the line's name among those of its root.
        past: where what was said before is read; None: nothing was.
        version: of the line, where it was looked at; None: whatever is read.
        is_new: the line is made with the turn.
        fork: where the new line leaves another.
    """

    conversation: str
    line: str = MAIN_LINE
    past: Part | None = None
    version: int | None = None
    is_new: bool = False
    fork: Fork | None = None


def root_of(turn: StoredTurn) -> str:
    """The ``conv_…`` id of the root that the turn belongs to; a fresh one where it has no past.

    Raises:
        NotFoundError: the conversation's id is malformed.
        PreviousResponseError: the earlier answer's id is.
    """
    if turn.conversation is not None:
        ids.conversation_root(turn.conversation)
        return turn.conversation
    if turn.previous is None:
        return ids.new_conversation()
    try:
        return ids.conversation_of(turn.previous)
    except NotFoundError as error:
        raise PreviousResponseError(turn.previous) from error


async def find_place(store: ConversationStore, turn: StoredTurn, conversation: str) -> Place:
    """Where the turn stands now; ``conversation`` is its root.

    Raises:
        PreviousResponseError, PreviousResponseDeletedError: the earlier answer is unknown, or was erased.
        InvalidRequestError: it failed, so there is nothing to go on from.
        ConversationBusyError: it is not complete yet.
        StoreUnavailableError: the store does not answer.
    """
    if turn.conversation is not None:
        return Place(conversation, past=Part())
    if turn.previous is None:
        return Place(conversation, is_new=True)
    return await _behind(store, turn.tenant, await _ended(store, turn.tenant, turn.previous))


async def _ended(store: ConversationStore, tenant: str, previous: str) -> TurnRecord:
    try:
        record = await store.turn(tenant, previous)
    except NotFoundError:
        if await store.is_erased(tenant, previous):
            raise PreviousResponseDeletedError(previous) from None
        raise PreviousResponseError(previous) from None
    if record.state.is_open:
        raise ConversationBusyError(previous)
    if record.state is TurnState.FAILED:
        message = f"{previous} failed, so there is no answer to go on from; send its input again."
        raise InvalidRequestError(message, param="previous_response_id")
    return record


async def _behind(store: ConversationStore, tenant: str, record: TurnRecord) -> Place:
    past = Part(line=record.line, upto=record.last)
    try:
        line = await store.load(tenant, record.conversation, Part(line=record.line, newest=1, upto=record.last))
    except NotFoundError:  # the last thing that the answer stands behind was erased
        raise PreviousResponseDeletedError(record.id) from None
    if line.is_hidden and not line.active and line.last == record.last:
        return Place(record.conversation, record.line, past, version=line.version)
    fork = Fork(record.line, record.last)
    return Place(record.conversation, ids.new_line(), past if record.last else None, is_new=True, fork=fork)
