"""Bytes in Redis: msgpack for values, little-endian u32 for token ids.

Journal segments are raw ids, not msgpack, so that a script can cut a segment that was partly written before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cluster.errors import TurnLostError
from cluster.protocol import Hint
from services.conversations.records import Conversation, Item, Line, TurnRecord, TurnRequest, TurnState
from services.conversations.store import Reply, Sampled, Verdict

ID_BYTES: Final = 4

Entry = tuple[bytes, dict[bytes, bytes]]  # of a stream: id and fields

encode = msgspec.msgpack.Encoder().encode
decode_item = msgspec.msgpack.Decoder(Item).decode
decode_request = msgspec.msgpack.Decoder(TurnRequest).decode
_decode_hint = msgspec.msgpack.Decoder(Hint).decode
_decode_sampled = msgspec.msgpack.Decoder(tuple[bytes, Hint | None]).decode
_decode_meta = msgspec.msgpack.Decoder(dict[str, str]).decode
_decode_usage = msgspec.msgpack.Decoder(dict[str, int]).decode


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as u32 little endian. Raises struct.error for an id outside 0 … 2^32-1."""
    return struct.pack(f"<{len(ids)}I", *ids)


def unpack_ids(data: bytes) -> list[int]:
    """The inverse of ``pack_ids``. Raises struct.error unless the length is a multiple of four."""
    return list(struct.unpack(f"<{len(data) // ID_BYTES}I", data))


def pack_sampled(answer: Sampled) -> bytes:
    """A sampled answer: msgpack of its packed ids and its hint. Raises struct.error as ``pack_ids``."""
    return encode((pack_ids(answer.ids), answer.hint))


def unpack_sampled(data: bytes) -> Sampled:
    """The inverse of ``pack_sampled``."""
    ids, hint = _decode_sampled(data)
    return Sampled(unpack_ids(ids), hint)


def decode_journal(turn: str, entries: Sequence[Entry]) -> list[int]:
    """All ids of a journal. Entry ``<n>-0`` ends at n, so a lost segment shows.

    Raises:
        TurnLostError: ids are missing.
    """
    out: list[int] = []
    for name, fields in entries:
        out += unpack_ids(fields.get(b"ids", b""))
        if int(name.partition(b"-")[0]) != len(out):
            raise TurnLostError(f"The journal of {turn} has a hole: the store has lost writes.")
    return out


def decode_hint(blob: bytes | None) -> Hint | None:
    """None for a line that no replica has served yet."""
    return _decode_hint(blob) if blob else None


def decode_conversation(name: str, created: bytes, meta: bytes) -> Conversation:
    """The head of a line, from its hash fields."""
    return Conversation(id=name, created_at=int(created), metadata=_decode_meta(meta))


def decode_line(name: str, reply: Sequence[Any]) -> Line:
    """A line, from the reply of LOAD."""
    version, active, hint, created, meta, *blobs = reply
    return Line(
        conversation=decode_conversation(name, created, meta),
        version=int(version),
        active=active.decode(),
        hint=decode_hint(hint),
        items=[decode_item(blob) for blob in blobs],
    )


def decode_reply(raw: Sequence[Any]) -> Reply:
    """A verdict and what came with it, from the reply of a script."""
    return _reply(*raw)


def _reply(verdict: bytes, value: int = 0, turn: bytes = b"", cancel: int = 0) -> Reply:
    return Reply(Verdict(verdict.decode()), value=value, turn=turn.decode(), cancel=bool(cancel))


def decode_turn(name: str, conversation: str, fields: Mapping[bytes, bytes], *, answer: bytes | None) -> TurnRecord:
    """A turn record from its hash fields and the blob of its answer item."""
    usage = fields.get(b"usage")
    return TurnRecord(
        id=name,
        conversation=conversation,
        state=TurnState(fields[b"state"].decode()),
        request=decode_request(fields[b"req"]),
        base_version=int(fields[b"base"]),
        owner=fields[b"owner"].decode(),
        fence=int(fields[b"fence"]),
        until_ms=int(fields[b"until"]),
        total=int(fields[b"n"]),
        created_at=int(fields[b"created"]),
        finish=fields.get(b"finish", b"").decode(),
        usage=_decode_usage(usage) if usage else {},
        answer=decode_item(answer) if answer else None,
        error_code=fields.get(b"error_code", b"").decode(),
        error_message=fields.get(b"error_message", b"").decode(),
    )
