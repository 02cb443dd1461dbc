"""A turn as its caller sees it: what goes in, and the numbered events that come out.

Events are a pure projection of (request, ids, finish), so their numbers never depend on batching, frames or replicas:
one delta per id that completes text. ``crc`` is the CRC-32 of the ids so far (u32 little endian).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cluster.protocol import FinishReason, Served, Structure, Usage
from cluster.tokenizer.tool_calls import ToolCall
from services.tenants.share import DEFAULT, Share


class Role(StrEnum):
    """Who speaks. The model's own four roles; the gateway maps OpenAI's names onto them."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    OBSERVATION = "observation"


class Truncation(StrEnum):
    """What happens to a history that does not fit the context."""

    AUTO = "auto"  # its oldest turns are left out
    DISABLED = "disabled"  # the turn is refused


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a request. An assistant's may end in a call; the result is the next message, an observation."""

    role: Role
    text: str
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call. ``parameters`` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What a caller may choose.

    None is the default: ChatGLM3's own (temperature and top_p 0.8, top_k 50), a drawn seed, the context's end.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()  # beside the model's own
    logprobs: int | None = None  # how many of the best beside each drawn token; 0: that one alone; None: nothing
    structure: Structure | None = None


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A stateless turn: the whole history comes with the request.

    Only where ``tools`` are offered can an answer be a call; else all it says is text.
    """

    tenant: str
    request_id: str
    messages: tuple[Message, ...]
    options: GenerationOptions = GenerationOptions()
    cache_key: str | None = None  # OpenAI's prompt_cache_key
    tools: tuple[Tool, ...] = ()
    share: Share = DEFAULT  # the tenant's, or less
    choices: int = 1  # answers to the one prompt
    truncation: Truncation = Truncation.DISABLED


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A request that may be sent again: the key its caller gave it, and a digest of its body."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn whose history the store keeps: that of ``conversation``, or what ``previous`` answered; else none.

    Nobody waits for one in the background: it goes through the queue. ``view`` is kept with the record, for whoever
    shows the turn later.
    """

    tenant: str
    request_id: str
    input: tuple[Message, ...]
    conversation: str | None = None
    instructions: str | None = None  # a system message for this turn only
    options: GenerationOptions = GenerationOptions()
    metadata: dict[str, str] = field(default_factory=dict)
    share: Share = DEFAULT  # the tenant's, or less
    truncation: Truncation = Truncation.DISABLED
    previous: str | None = None  # resp_…
    is_background: bool = False
    view: bytes = b""
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last event that a reader has. ``crc`` None: the reader does not know it, so it is not compared."""

    seq: int
    crc: int | None = None


class EventKind(StrEnum):
    """In order of appearance. Most turns have no TOOL_CALL, nor QUEUED.

    A turn ends with exactly one of the four before the last. BROKEN is no part of it: the stream ends here, the turn
    does not, or nobody can say how.
    """

    CREATED = "created"
    QUEUED = "queued"  # of a turn in the background only
    IN_PROGRESS = "in_progress"
    ITEM_ADDED = "item_added"
    PART_ADDED = "part_added"
    TEXT_DELTA = "text_delta"
    TEXT_DONE = "text_done"
    PART_DONE = "part_done"
    ITEM_DONE = "item_done"
    TOOL_CALL = "tool_call"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and the natural logarithm of its probability; ``top`` are the best ones in its place, best first.

    ``data`` is what the token adds to the answer's UTF-8, maybe a part of a character; None: it shows nothing.
    """

    token: str
    data: bytes | None
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended. With several ``choices`` the other fields but ``usage`` and ``reason`` are the first one's."""

    reason: FinishReason
    text: str
    ids: tuple[int, ...]  # decode to exactly ``text`` (leading white space aside) and the call; no stop ids
    usage: Usage
    error_code: str = ""
    error_message: str = ""
    call: ToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = ()  # of the ids up to the first that a stop string touches
    choices: tuple[TurnResult, ...] = ()  # where more than one answer was asked for: each one's own


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """One numbered event. ``text`` is the delta of TEXT_DELTA and the whole text of the *_DONE events.

    ``choice`` is the answer that it belongs to; each is numbered for itself. Entries of ``logprobs`` come with the
    first delta behind which their ids are certain to stay, those of ids without text too; what is left with TEXT_DONE.
    """

    seq: int
    crc: int
    kind: EventKind
    text: str = ""
    result: TurnResult | None = None  # only on the last event
    call: ToolCall | None = None  # only on TOOL_CALL
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """Before the numbered events: the turn was accepted and a replica serves it. Headers are written from this."""

    response_id: str  # resp_… of a stored turn; "" for a stateless one
    item_id: str  # msg_… of the answer
    conversation: str | None
    served: Served | None  # None: the turn is read, not computed, here
    seed: int
    prompt_tokens: int
    created_at: int  # unix seconds
