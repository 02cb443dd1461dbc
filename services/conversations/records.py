"""What the store keeps, as values.

Ids carry their root: ``conv_<root>``, ``resp_<root><rand>``, ``msg_<root><rand>``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from cluster.protocol import Hint


class TurnState(StrEnum):
    """States of a turn record; the last four are terminal and immutable."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation. An assistant item keeps the sampled ids; other items have none."""

    id: str
    role: str  # system | user | assistant | observation
    text: str
    ids: list[int] | None = None
    turn: str = ""  # the response that wrote it
    status: str = "completed"  # or incomplete
    created_at: int = 0  # unix seconds


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a conversation, without its items."""

    id: str
    created_at: int
    metadata: dict[str, str]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn reads before it begins."""

    conversation: Conversation
    version: int
    active: str  # id of the running turn, or ""
    hint: Hint | None
    items: list[Item]  # oldest first


class TurnRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to compute the turn again, on any owner."""

    request_id: str
    input: list[Item]
    instructions: str | None
    sampling: bytes  # msgpack of cluster.protocol.SamplingParams, the drawn seed included
    stop: list[str]
    prompt_digest: str  # hex BLAKE2b-128 of the prompt ids (u32 little endian)
    prompt_tokens: int
    model: str
    metadata: dict[str, str] = {}


class TurnRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A stored turn."""

    id: str
    conversation: str  # its line: conv_… ; for a turn begun without one, the unlisted line of its root
    state: TurnState
    request: TurnRequest
    base_version: int
    owner: str
    fence: int
    until_ms: int  # lease end, server clock
    total: int  # ids journalled
    created_at: int
    finish: str = ""  # FinishReason, once terminal
    usage: dict[str, int] = {}
    answer: Item | None = None
    error_code: str = ""
    error_message: str = ""
