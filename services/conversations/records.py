"""What the store keeps, as values.

Ids carry their root: ``conv_<root>``, ``resp_<root><rand>``, ``msg_<root><rand>``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from cluster.protocol import Hint, Logprobs
from services.conversations.keys import MAIN_LINE


class TurnState(StrEnum):
    """States of a turn record; the last four are terminal and immutable."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether the turn has not ended."""
        return self in {TurnState.QUEUED, TurnState.RUNNING}

    @property
    def is_pointed(self) -> bool:
        """Whether a queue may point to the turn: it is open, or a dead letter was written of it."""
        return self.is_open or self is TurnState.FAILED


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation. An assistant item keeps the sampled ids; other items have none."""

    id: str
    role: str  # system | user | assistant | observation
    text: str
    ids: list[int] | None = None
    turn: str = ""  # the response that wrote it
    status: str = "completed"  # or incomplete
    created_at: int = 0  # unix seconds
    window: str = ""  # of a sampled answer: its turn's ``TurnRequest.window``, where the next one's begins too


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a conversation, without its items."""

    id: str
    created_at: int
    metadata: dict[str, str]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn reads before it begins: a conversation, or a branch of answers without one.

    Attributes:
        name: of the line among those of its root.
        is_hidden: nobody made it as a conversation; it holds what responses without one follow each other in.
        active: id of the turn that holds it, or "".
        items: the newest ones, oldest first; those that were erased are left out.
        oldest: as many of the first ones as were asked for, be they among the newest or not.
        last: id of the last item, "" where there is none.
    """

    conversation: Conversation
    version: int
    active: str
    hint: Hint | None
    items: list[Item]
    oldest: list[Item] = []
    last: str = ""
    name: str = MAIN_LINE
    is_hidden: bool = False


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to compute the turn again, on any owner, and to show it again, on any gateway.

    Attributes:
        input: what the caller sent; empty in the record of an ended turn whose input is on its line.
        sampling: msgpack of cluster.protocol.SamplingParams, the drawn seed included.
        prompt_digest: hex BLAKE2b-128 of the prompt ids (u32 little endian).
        fingerprint: of the model that the turn was begun on.
        projection: version of the events that its ids give.
        is_background: nobody waits for it; the queue brings it to an owner.
        view: what the turn's maker wants to show of the request later; opaque here.
    """

    request_id: str
    input: list[Item]
    instructions: str | None
    sampling: bytes
    stop: list[str]
    prompt_digest: str
    prompt_tokens: int
    model: str
    metadata: dict[str, str] = {}
    fingerprint: str = ""
    projection: int = 1
    priority: int = 0
    weight: float = 1.0
    is_background: bool = False
    truncation: str = "disabled"  # or auto
    window: str = ""  # id of the first item in the prompt behind the leading system messages; "": the whole line
    view: bytes = b""


class TurnRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stored turn.

    Attributes:
        conversation: ``conv_…`` of its root, whether or not somebody made it.
        line: the line of that root which it stands on.
        until_ms: end of the lease, server clock; 0 while nobody owns the turn.
        total: ids in its journal; of an ended turn, all that were generated.
        claims: how many owners took it over and did not give it up.
        moves: how often its answer went on at another replica.
        deadline_ms: when it is given up, server clock; 0 once it has ended.
        is_cancelled: somebody asked to cancel it.
        finish: FinishReason, once terminal.
        answer: the item that it appended, once terminal.
        last: id of the line's last item behind it, once terminal; where a branch begins.
        ids: all ids that were generated, once terminal.
        logprobs: of ``ids``, where they were asked for.
    """

    id: str
    conversation: str
    line: str
    state: TurnState
    request: TurnRequest
    base_version: int
    owner: str
    fence: int
    until_ms: int
    total: int
    created_at: int
    claims: int = 0
    moves: int = 0
    deadline_ms: int = 0
    is_cancelled: bool = False
    finish: str = ""
    usage: dict[str, int] = {}
    answer: Item | None = None
    error_code: str = ""
    error_message: str = ""
    last: str = ""
    ids: list[int] = []
    logprobs: list[Logprobs] | None = None
    ended_at: int = 0
