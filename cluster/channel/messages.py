"""What travels on the token channel, and how it is framed.

A frame is a little-endian u32 length and a MessagePack body. The replica dials and speaks most; the owner (a gateway or
a dispatcher) only ever says ``Abort``.
"""

from __future__ import annotations

import struct

import msgspec

from cluster.protocol import Finish, Served, Tokens

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 8 * 2**20
LENGTH = struct.Struct("<I")


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First frame of both sides. ``role`` is ``replica`` or ``owner``; ``nonce`` is 16 random bytes."""

    version: int
    role: str
    name: str
    nonce: bytes


class Proof(msgspec.Struct, frozen=True, tag="proof"):
    """Second frame of both sides: HMAC-SHA256 over the roles, names and nonces, see ``handshake``."""

    mac: bytes


class Accept(msgspec.Struct, frozen=True, tag="accept"):
    """Replica: this attempt is queued here; nothing of it was computed elsewhere."""

    attempt: int
    served: Served


class Step(msgspec.Struct, frozen=True, tag="step"):
    """Replica: everything one engine step brought for this owner.

    ``rows`` holds (attempt, tokens), ``ends`` holds (attempt, finish).
    """

    rows: list[tuple[int, Tokens]] = []
    ends: list[tuple[int, Finish]] = []


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Replica: still alive, whether or not there is anything to say."""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Owner: nobody waits for this attempt any more."""

    attempt: int


Message = Hello | Proof | Accept | Step | Beat | Abort

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_frame(message: Message) -> bytes:
    """The frame of a message, length included."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def decode_body(body: bytes) -> Message:
    """The message in a frame's body. Raises msgspec.DecodeError (or its ValidationError) for anything else."""
    return _decoder.decode(body)
