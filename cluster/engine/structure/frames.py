"""Messages between an engine and the process that tries its structures.

On the pipe: four bytes of length, little endian, then that many bytes. The end of the pipe is no message.
"""

from __future__ import annotations

from typing import IO

import msgspec

_PREFIX = 4


class Reply(msgspec.Struct, frozen=True):
    """Why a structure cannot be used, in a sentence; empty when it can."""

    error: str = ""


def write_frame(stream: IO[bytes], payload: bytes) -> None:
    """Write one message. Raises BrokenPipeError when nobody reads any more."""
    stream.write(len(payload).to_bytes(_PREFIX, "little") + payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """Read one message, waiting for it; empty when the pipe has ended."""
    return _read_exactly(stream, int.from_bytes(_read_exactly(stream, _PREFIX), "little"))


def _read_exactly(stream: IO[bytes], length: int) -> bytes:
    parts: list[bytes] = []
    while length and (part := stream.read(length)):
        parts.append(part)
        length -= len(part)
    return b"" if length else b"".join(parts)
