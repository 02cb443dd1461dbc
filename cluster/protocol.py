"""The words that cross a process border between a turn's owner (gateway, dispatcher) and a replica.

Ids only: text never travels here. ``prompt_ids`` and ``output_ids`` are apart so that an answer that moved to another
replica goes on at the same index with the same random draws.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # a stop id was sampled; it is not part of the output
    LENGTH = "length"  # max_new_tokens or the context's end was reached
    ABORTED = "aborted"  # the owner asked for it
    MOVED = "moved"  # the engine has died under it; the owner goes on elsewhere
    FAILED = "failed"  # this sequence alone cannot go on; ``Finish.error`` says why


class StructureKind(StrEnum):
    """What an answer's shape is given as."""

    JSON_OBJECT = "json_object"  # any JSON object
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"  # EBNF as xgrammar reads it


class Structure(msgspec.Struct, frozen=True, kw_only=True):
    """The shape that the whole answer must have. ``text`` is the schema, expression or grammar itself."""

    kind: StructureKind
    text: str = ""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Defaults are ChatGLM3's own (``chat`` of the published model).

    Applied in this order: penalties, ``logit_bias``, ``bad_words``, ``min_new_tokens``, ``structure``, temperature,
    top-k, top-p, min-p, draw.

    Attributes:
        temperature: 0 is greedy.
        top_p: 1 is off.
        top_k: 0 is off.
        min_p: drops what is less probable than this share of the best; 0 is off.
        repetition_penalty: divides positive and multiplies negative logits of all ids of prompt and output; 1 is off.
        presence_penalty: taken from the logits of ids that the output holds.
        frequency_penalty: taken from the logits of ids once per time the output holds them.
        logit_bias: added to the logits of these ids.
        bad_words: id sequences that the output never holds.
        min_new_tokens: outputs before which no stop id is drawn.
        seed: always drawn by the owner, so that a moved turn repeats its draws.
        max_new_tokens: of the whole turn, ``output_ids`` included.
        stop_ids: end the answer and are no part of it.
        logprobs: how many of the best ids to report beside each drawn one; 0 reports that one alone, None nothing.
        structure: the shape of the answer; None is free text.
    """

    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 50
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_new_tokens: int = 0
    seed: int = 0
    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    structure: Structure | None = None


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a conversation's KV was left: written by commit, read with the history. May be stale at no harm."""

    rank: int
    incarnation: str  # the replica's unique id; a restarted replica has another
    tokens: int  # tokens it held


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to generate (the rest of) one answer."""

    attempt: int  # random 64 bit; names this attempt on the channel
    request_id: str  # for logs only
    tenant: str  # salts the KV cache
    prompt_ids: list[int]
    output_ids: list[int] = []  # already emitted by an earlier attempt; not emitted again
    sampling: SamplingParams
    pin_key: str = ""  # hashed with the tenant by its maker; equal keys want the same replica, and are erased together
    hint: Hint | None = None
    avoid: tuple[str, ...] = ()  # incarnations not to use
    busy: tuple[str, ...] = ()  # incarnations that have refused this turn for want of room
    priority: int = 0  # class; the batch takes smaller ones first
    weight: float = 1.0  # the tenant's share of computing and of the cache, among tenants that want more than theirs
    keep_s: float = 0.0  # how long to keep the KV of prompt and answer before that of others; a wish, not a hold
    deadline_s: float | None = None  # seconds from acceptance; None: none
    reply_to: tuple[str, int] = ("", 0)  # host and port of the owner's token channel; unused in one process


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of one attempt. ``cached_tokens`` are prompt tokens whose KV was found, not computed."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """Whose KV is to be forgotten: that of the requests with this tenant and pin key."""

    tenant: str
    pin_key: str


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """Full pages of KV that a label's requests had computed.

    ``dropped`` are gone; ``held`` were in use by a running sequence and go when it ends, unless others need them then.
    """

    dropped: int = 0
    held: int = 0


class Served(msgspec.Struct, frozen=True, kw_only=True, tag="served"):
    """First event of an attempt: who serves it and why there (``pinned``, ``placed``, ``spilled``, ``moved``)."""

    rank: int
    incarnation: str
    why: str


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Natural logarithms of probabilities at one place of an answer, before temperature and every filter.

    ``top_ids`` and ``top`` are the best ids and theirs, best first; equal ones by id.
    """

    drawn: float
    top_ids: list[int] = []
    top: list[float] = []


class Tokens(msgspec.Struct, frozen=True, kw_only=True, tag="tokens"):
    """New output ids. ``start`` is the index of ``ids[0]`` in the whole answer (emitted ``output_ids`` included).

    ``cached_tokens`` comes with the first ids of an attempt, so that a turn which its owner ends early (a stop string,
    a client that left) can still say how much of its prompt was found in the cache. ``logprobs`` has one entry per id
    where they were asked for.
    """

    start: int
    ids: list[int]
    cached_tokens: int | None = None
    logprobs: list[Logprobs] | None = None


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """Last event of an attempt. ``total`` is the number of output ids of the whole answer."""

    reason: FinishReason
    total: int
    usage: Usage
    error: str = ""


Event = Served | Tokens | Finish
