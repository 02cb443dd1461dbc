"""Bytes in Redis: msgpack for values, little-endian u32 for token ids.

Journal segments are raw ids, not msgpack, so that a script can cut a segment that was partly written before.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from cluster.protocol import Hint, Logprobs
from services.conversations.items import answer_of
from services.conversations.records import Conversation, Item, Line, TurnRecord, TurnRequest, TurnState
from services.conversations.store import Commit, Reply, Reservation, Sampled, Tailed, Verdict

ID_BYTES: Final = 4
_DRAWN_BYTES: Final = 8  # of one id's log probabilities: the drawn one
_BEST_BYTES: Final = 12  # and each of the best, with its id


class End(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a record keeps of its turn's end, in one value. ERASE_TURN reads ``inputs`` by its place."""

    finish: str
    usage: dict[str, int] = {}
    error_code: str = ""
    error_message: str = ""
    inputs: list[str] = []  # ids of items


Entry = tuple[bytes, dict[bytes, bytes]]  # of a stream: id and fields

encode = msgspec.msgpack.Encoder().encode
decode_item = msgspec.msgpack.Decoder(Item).decode
decode_request = msgspec.msgpack.Decoder(TurnRequest).decode
_decode_hint = msgspec.msgpack.Decoder(Hint).decode
_decode_sampled = msgspec.msgpack.Decoder(tuple[bytes, Hint | None]).decode
_decode_meta = msgspec.msgpack.Decoder(dict[str, str]).decode
_decode_items = msgspec.msgpack.Decoder(list[Item]).decode
decode_end = msgspec.msgpack.Decoder(End).decode
_decode_reservation = msgspec.msgpack.Decoder(Reservation).decode


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


def pack_logprobs(logprobs: Sequence[Logprobs]) -> bytes:
    """Log probabilities, equally many bytes for each id, so that a script can cut them as it cuts ids.

    Per id: the drawn one (f64), then the best ids (u32) and theirs (f64), little endian.
    """
    return b"".join(
        struct.pack(f"<d{len(one.top_ids)}I{len(one.top)}d", one.drawn, *one.top_ids, *one.top) for one in logprobs
    )


def unpack_logprobs(data: bytes, num_ids: int) -> list[Logprobs]:
    """The inverse of ``pack_logprobs``."""
    if not data:
        return []
    num_best = (len(data) // num_ids - _DRAWN_BYTES) // _BEST_BYTES
    unpacked = struct.iter_unpack(f"<d{num_best}I{num_best}d", data)
    return [
        Logprobs(drawn=drawn, top_ids=list(best[:num_best]), top=list(best[num_best:])) for drawn, *best in unpacked
    ]


def encode_end(commit: Commit) -> bytes:
    """The end that a commit brings."""
    answer = answer_of(commit.items)
    return encode(
        End(
            finish=commit.finish,
            usage=dict(commit.usage),
            error_code=commit.error_code,
            error_message=commit.error_message,
            inputs=[item.id for item in commit.items if item is not answer],
        )
    )


def decode_tailed(reply: Sequence[Any], after: int) -> Tailed:
    """What TAIL found behind the first ``after`` ids. Entry ``<n>-0`` ends at n, so a lost segment shows."""
    if not reply:
        return Tailed(None)
    ids: list[int] = []
    logprobs: list[Logprobs] = []
    for name, raw in reply[1]:
        fields = dict(zip(raw[::2], raw[1::2], strict=True))
        segment = unpack_ids(fields[b"ids"])
        ids += segment
        logprobs += unpack_logprobs(fields.get(b"lp", b""), len(segment))
        if int(name.partition(b"-")[0]) != after + len(ids):
            return Tailed(TurnState(reply[0].decode()), is_broken=True)
    return Tailed(TurnState(reply[0].decode()), ids, logprobs)


def decode_hint(blob: bytes | None) -> Hint | None:
    """None for a line that no replica has served yet."""
    return _decode_hint(blob) if blob else None


def decode_conversation(name: str, created: bytes, meta: bytes) -> Conversation:
    """The head of a line, from its hash fields."""
    return Conversation(id=name, created_at=int(created), metadata=_decode_meta(meta))


def decode_line(name: str, line: str, reply: Sequence[Any]) -> Line:
    """A line, from the reply of LOAD."""
    version, active, hint, created, meta, hidden, last, num_oldest, *blobs = reply
    return Line(
        conversation=decode_conversation(name, created, meta),
        version=int(version),
        active=active.decode(),
        hint=decode_hint(hint),
        items=_decode_blobs(blobs[num_oldest:]),
        oldest=_decode_blobs(blobs[:num_oldest]),
        last=last.decode() if last else "",
        name=line,
        is_hidden=hidden is not None,
    )


def _decode_blobs(blobs: Sequence[bytes | None]) -> list[Item]:
    return [decode_item(blob) for blob in blobs if blob is not None]


def decode_reply(raw: Sequence[Any]) -> Reply:
    """A verdict and what came with it, from the reply of a script."""
    return _reply(*raw)


def _reply(verdict: bytes, value: int = 0, turn: bytes = b"", cancel: int = 0, seen_ms: int = 0) -> Reply:
    return Reply(Verdict(verdict.decode()), value=value, turn=turn.decode(), cancel=bool(cancel), seen_s=seen_ms / 1000)


def decode_reservation(data: bytes) -> Reservation:
    """The value of an idempotency key."""
    return _decode_reservation(data)


def decode_turn(name: str, conversation: str, fields: Mapping[bytes, bytes], *, answer: bytes | None) -> TurnRecord:
    """A turn record from its hash fields and the blob of its answer item."""
    total = int(fields[b"n"])
    end = decode_end(fields[b"end"]) if b"end" in fields else End(finish="")
    item = decode_item(answer) if answer else None
    state = TurnState(fields[b"state"].decode())
    return TurnRecord(
        id=name,
        conversation=conversation,
        line=fields[b"line"].decode(),
        state=state,
        request=_request_of(fields),
        base_version=int(fields[b"base"]),
        owner=fields[b"owner"].decode(),
        fence=int(fields[b"fence"]),
        until_ms=int(fields[b"until"]),
        total=total,
        created_at=int(fields[b"created"]),
        claims=int(fields.get(b"claims", 0)),
        moves=int(fields.get(b"moves", 0)),
        deadline_ms=int(fields[b"deadline"]) if state.is_open else 0,
        is_cancelled=b"cancel" in fields,
        finish=end.finish,
        usage=end.usage,
        answer=item,
        error_code=end.error_code,
        error_message=end.error_message,
        last=fields.get(b"last", fields.get(b"answer", b"")).decode(),
        ids=_ids_of(fields, item),
        logprobs=unpack_logprobs(fields[b"lp"], total) if b"lp" in fields else None,
        ended_at=int(fields.get(b"ended", 0)),
    )


def _request_of(fields: Mapping[bytes, bytes]) -> TurnRequest:
    request = decode_request(fields[b"req"])
    if b"input" not in fields:
        return request
    return msgspec.structs.replace(request, input=_decode_items(fields[b"input"]))


def _ids_of(fields: Mapping[bytes, bytes], answer: Item | None) -> list[int]:
    if b"ids" in fields:
        return unpack_ids(fields[b"ids"])
    return list(answer.ids or ()) if answer else []
