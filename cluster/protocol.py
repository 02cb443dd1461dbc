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
    MOVED = "moved"  # the replica is draining; the owner goes on elsewhere
    FAILED = "failed"  # this sequence alone cannot go on; ``Finish.error`` says why


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. Defaults are ChatGLM3's own (``chat`` of the published model).

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 switch the filter off. ``seed`` is always drawn by the
    owner, so that a moved turn repeats its draws. ``max_new_tokens`` counts the whole turn, ``output_ids`` included.
    """

    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 50
    seed: int = 0
    max_new_tokens: int
    stop_ids: tuple[int, ...] = ()


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
    pin_key: str = ""  # hashed with the tenant by its maker; equal keys want the same replica
    hint: Hint | None = None
    avoid: tuple[str, ...] = ()  # incarnations not to use
    busy: tuple[str, ...] = ()  # incarnations that have refused this turn for want of room
    deadline_s: float | None = None  # seconds from acceptance; None: none
    reply_to: tuple[str, int] = ("", 0)  # host and port of the owner's token channel; unused in one process


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts of one attempt. ``cached_tokens`` are prompt tokens whose KV was found, not computed."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Served(msgspec.Struct, frozen=True, kw_only=True, tag="served"):
    """First event of an attempt: who serves it and why there (``pinned``, ``placed``, ``spilled``, ``moved``)."""

    rank: int
    incarnation: str
    why: str


class Tokens(msgspec.Struct, frozen=True, kw_only=True, tag="tokens"):
    """New output ids. ``start`` is the index of ``ids[0]`` in the whole answer (emitted ``output_ids`` included).

    ``cached_tokens`` comes with the first ids of an attempt, so that a turn which its owner ends early (a stop string,
    a client that left) can still say how much of its prompt was found in the cache.
    """

    start: int
    ids: list[int]
    cached_tokens: int | None = None


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """Last event of an attempt. ``total`` is the number of output ids of the whole answer."""

    reason: FinishReason
    total: int
    usage: Usage
    error: str = ""


Event = Served | Tokens | Finish
