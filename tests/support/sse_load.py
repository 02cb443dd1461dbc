"""Many event streams read at little cost: sockets and a count of events, nothing is parsed.

A program of its own, so that its work does not disturb what it measures. ``Load`` says what to ask; what came and when
is written to a file as ``Streams``. Events end in an empty line, which neither JSON nor chunked encoding can contain.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
import uuid
from pathlib import Path
from typing import cast

import msgspec
import uvloop

END = b"0\r\n\r\n"  # the last chunk of a response


class Load(msgspec.Struct, frozen=True):
    """What to ask: each of ``streams`` connections sends ``requests`` requests, one after another.

    Before each it pauses for up to ``pause_s``, at random: answers that end with the same engine step would otherwise
    have all connections ask again in the same moment.
    """

    port: int
    key: str
    model: str
    streams: int
    requests: int
    tokens: int
    pause_s: float = 0.0
    keeps_bodies: bool = False


class Stream(msgspec.Struct):
    """One answer. Times are monotonic seconds; ``arrivals`` are (time, events that were complete then)."""

    request_id: str
    sent: float
    arrivals: list[tuple[float, int]] = []
    body: bytes = b""


class Streams(msgspec.Struct):
    """All answers, and the CPU seconds that reading them took."""

    streams: list[Stream]
    cpu_s: float


class Reader(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._stream: Stream | None = None
        self._tail = b""
        self._end: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class

    async def ask(self) -> Stream:
        """Send one request and wait for the end of its answer."""
        self._end = asyncio.get_running_loop().create_future()
        self._tail = b""
        request_id = uuid.uuid4().hex
        self._stream = Stream(request_id, time.monotonic())
        self._transport.write(_request(self._load, request_id))
        await self._end
        return self._stream

    def data_received(self, data: bytes) -> None:
        """Count."""
        now, stream, tail = time.monotonic(), self._stream, self._tail
        if stream is None or self._end is None:
            raise RuntimeError(f"unasked: {data[:200]!r}")
        if not tail and not data.startswith(b"HTTP/1.1 200"):
            self._end.set_exception(RuntimeError(f"refused: {data[:500]!r}"))
            return
        events = data.count(b"\n\n") + (tail.endswith(b"\n") and data.startswith(b"\n"))
        if events:
            stream.arrivals.append((now, events))
        if self._load.keeps_bodies:
            stream.body += data
        self._tail = (tail + data)[-len(END) :] if len(data) < len(END) else data[-len(END) :]
        if self._tail == END:
            self._end.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that was cut is an error."""
        if self._end is not None and not self._end.done():
            self._end.set_exception(RuntimeError(f"the connection ended in mid-answer: {exc}"))


def _request(load: Load, request_id: str) -> bytes:
    body = json.dumps(
        {
            "model": load.model,
            "messages": [{"role": "user", "content": f"Question {request_id}"}],
            "max_tokens": load.tokens,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{load.port}\r\nAuthorization: Bearer {load.key}\r\nX-Request-Id: {request_id}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def text_of(body: bytes) -> bytes:
    """The event stream in a response as it came over the wire: without head and chunk lengths."""
    _, rest = body.split(b"\r\n\r\n", 1)
    out = b""
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        out += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return out


async def run(load: Load) -> Streams:
    """Ask everything."""
    loop = asyncio.get_running_loop()
    readers = []
    for _ in range(load.streams):
        _, reader = await loop.create_connection(lambda: Reader(load), "127.0.0.1", load.port)
        readers.append(reader)
    begun = _cpu_s()
    answers = await asyncio.gather(*(_ask_all(reader, load) for reader in readers))
    return Streams([stream for answer in answers for stream in answer], _cpu_s() - begun)


async def _ask_all(reader: Reader, load: Load) -> list[Stream]:
    streams = []
    for _ in range(load.requests):
        await asyncio.sleep(random.uniform(0, load.pause_s))
        streams.append(await reader.ask())
    return streams


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    load = msgspec.json.decode(sys.argv[1].encode(), type=Load)
    Path(sys.argv[2]).write_bytes(msgspec.msgpack.encode(uvloop.run(run(load))))
