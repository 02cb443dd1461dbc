"""What travels between a replica's process and its engine's: frames of MessagePack over a socket pair.

Both ends run the same code of the same installation, so there are no versions and no secrets here, and nothing is ever
unpickled. A frame is a little-endian u32 length and a body.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from cluster.engine.client import EngineStats
from cluster.engine.tenant_use import TenantUse
from cluster.faults import Fault
from cluster.protocol import Finish, Forgotten, GenerateRequest, Label, Tokens

_LENGTH = struct.Struct("<I")


class Begin(msgspec.Struct, frozen=True, tag="begin", array_like=True):
    """First command: load and begin to step. ``config`` is what the engine's factory takes."""

    config: bytes


class Submit(msgspec.Struct, frozen=True, tag="submit", array_like=True):
    """Queue a request; answered with ``Accepted`` or ``Refused`` of the same number."""

    number: int
    request: GenerateRequest


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw", array_like=True):
    """The caller of a submit has left; whatever became of it ends."""

    number: int


class Abort(msgspec.Struct, frozen=True, tag="abort", array_like=True):
    """End an attempt."""

    attempt: int


class Forget(msgspec.Struct, frozen=True, tag="forget", array_like=True):
    """Free the KV pages of a label; answered with ``Forgot`` of the same number."""

    number: int
    label: Label


class Stop(msgspec.Struct, frozen=True, tag="stop", array_like=True):
    """Abort what runs, report it, and end the process."""


Command = Begin | Submit | Withdraw | Abort | Forget | Stop


class Started(msgspec.Struct, frozen=True, tag="started", array_like=True):
    """The model is loaded."""


class NotStarted(msgspec.Struct, frozen=True, tag="not_started", array_like=True):
    """Loading has failed; the process ends."""

    fault: Fault


class Accepted(msgspec.Struct, frozen=True, tag="accepted", array_like=True):
    """The request of that submit is queued."""

    number: int


class Refused(msgspec.Struct, frozen=True, tag="refused", array_like=True):
    """Nothing of that submit's request was computed."""

    number: int
    fault: Fault


class Forgot(msgspec.Struct, frozen=True, tag="forgot", array_like=True):
    """What that forget has freed."""

    number: int
    forgotten: Forgotten


class Step(msgspec.Struct, frozen=True, tag="step", array_like=True):
    """Everything one engine step brought, for all attempts, and the figures after it.

    Those by tenant stand apart, because most steps leave them as they were: then ``tenants`` is None.
    """

    outputs: list[tuple[int, Tokens | Finish]]
    stats: EngineStats
    failures_in_a_row: int
    tenants: dict[str, TenantUse] | None = None


Report = Started | NotStarted | Accepted | Refused | Forgot | Step

Incoming = TypeVar("Incoming")

_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: Command | Report) -> bytes:
    """The frame of a message, length included."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[Incoming]):
    """Cuts a stream of bytes, however it comes in pieces, into messages."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Incoming]) -> None:
        self._decoder = decoder
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Incoming]:
        """The messages that are whole with ``data``. Raises msgspec.DecodeError for what is none."""
        self._rest += data
        begin = 0
        while (body := begin + _LENGTH.size) <= len(self._rest):
            end = body + _LENGTH.unpack_from(self._rest, begin)[0]
            if end > len(self._rest):
                break
            yield self._decoder.decode(self._rest[body:end])
            begin = end
        del self._rest[:begin]


def commands() -> FrameReader[Command]:
    """What the engine's process reads."""
    return FrameReader(msgspec.msgpack.Decoder(Command))


def reports() -> FrameReader[Report]:
    """What the replica's process reads."""
    return FrameReader(msgspec.msgpack.Decoder(Report))
