"""What a server holds of conversations, read key by key, as plain values that can be written down and judged later."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import redis

from cluster.errors import NoReplicaError, OverloadedError
from services.conversations import codec
from services.conversations.keys import SCHEMA
from services.queue.keys import BACKGROUND, DUE_SHARDS, class_prefix, due_key
from tests.support.valkey import WITHOUT_TTL

QUEUED = ("jobs", "sizes", "work", "later", "ring")  # keys of a queue that are gone when nothing waits in it


class KeptItem(msgspec.Struct, frozen=True):
    """A message. ``turn`` wrote it."""

    role: str
    text: str
    turn: str


class KeptTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A record. ``last``: the line's last item behind it; ``answer``: id of its item; ``inputs``: texts not on a line."""

    state: str
    line: str
    last: str
    answer: str
    claims: int
    moves: int
    error_code: str
    inputs: list[str]

    @property
    def was_refused(self) -> bool:
        """Whether nobody took it, so that its client was told to come again and its key stands for a later turn."""
        return self.state == "failed" and self.error_code in {OverloadedError.code, NoReplicaError.code}


class KeptLine(msgspec.Struct, frozen=True):
    """A line: the ids of its items, and the turn that it is active with."""

    items: list[str]
    active: str


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Everything.

    Attributes:
        turns: by id.
        lines: by ``<root>:<line>``.
        items: by id.
        reserved: by digest of an idempotency key, the turn that it stands for.
        journals: keys of those that are left.
        due: refs in the index.
        queued: non-empty keys of the queue.
        dead: dead letters.
        immortal: keys without a time to live that should have one.
    """

    turns: dict[str, KeptTurn]
    lines: dict[str, KeptLine]
    items: dict[str, KeptItem]
    reserved: dict[str, str]
    journals: list[str]
    due: list[str]
    queued: list[str]
    dead: int
    immortal: list[str]


def key_digest(key: str) -> str:
    """What an idempotency key is kept under."""
    return hashlib.sha256(key.encode()).hexdigest()


def open_work(client: redis.Redis) -> list[str]:
    """What waits to be looked at: refs in the due index, and keys of the queue."""
    return [*_due(client), *_queued(client)]


def read_kept(client: redis.Redis, tenant: str) -> Kept:
    """All of one tenant; ``client`` answers bytes."""
    names = sorted(key.decode() for key in client.scan_iter(count=1000))
    kept = Kept(
        turns={},
        lines={},
        items={},
        reserved={},
        journals=[name for name in names if name.startswith(f"{SCHEMA}:{{{tenant}.") and ":j:" in name],
        due=_due(client),
        queued=_queued(client),
        dead=int(client.zcard(f"{class_prefix(BACKGROUND)}dead")),
        immortal=[n for n in names if not n.startswith(WITHOUT_TTL) and client.ttl(n) == -1],
    )
    for name in names:
        if name.startswith(f"{SCHEMA}:{{{tenant}."):
            _read(client, name, kept)
        elif name.startswith(f"{SCHEMA}:idem:{{{tenant}."):
            digest = name.rpartition(".")[2].rstrip("}")
            kept.reserved[digest] = codec.decode_reservation(_bytes(client.get(name))).turn
    return kept


def _read(client: redis.Redis, name: str, kept: Kept) -> None:
    tag, _, suffix = name.partition("}:")
    root = tag.rpartition(".")[2]
    kind, _, part = suffix.partition(":")
    if kind == "turn":
        kept.turns[f"resp_{root}{part}"] = _turn(client.hgetall(name))
    elif kind == "line":
        items = [item.decode() for item in client.lrange(name.replace(":line:", ":items:"), 0, -1)]
        kept.lines[f"{root}:{part}"] = KeptLine(items, _bytes(client.hget(name, "active")).decode())
    elif kind == "item":
        for item, blob in client.hgetall(name).items():
            read = codec.decode_item(blob)
            kept.items[item.decode()] = KeptItem(read.role, read.text, read.turn)


def _turn(fields: dict[bytes, bytes]) -> KeptTurn:
    record = codec.decode_turn("", "", fields, answer=None)
    return KeptTurn(
        state=record.state,
        line=record.line,
        last=record.last,
        answer=fields.get(b"answer", b"").decode(),
        claims=record.claims,
        moves=record.moves,
        error_code=record.error_code,
        inputs=[item.text for item in record.request.input],
    )


def _due(client: redis.Redis) -> list[str]:
    return [ref.decode() for shard in range(DUE_SHARDS) for ref in client.zrange(due_key(shard), 0, -1)]


def _queued(client: redis.Redis) -> list[str]:
    prefix = class_prefix(BACKGROUND)
    return [prefix + name for name in QUEUED if client.exists(prefix + name)]


def _bytes(value: Any) -> bytes:
    assert isinstance(value, bytes)
    return value
