"""Server-sent events: framing, and a writer that never lets one side wait for the other.

Events are rendered as soon as they exist and written together when several are ready; a silent stream gets a comment
now and then, so that proxies keep it open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Send

from services.gateway.connection import SlowClientError, cancelled

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


# Line ends to Unicode and to many clients' line readers, though not to the format: written as JSON escapes.
LINE_ENDS = tuple((mark.encode(), f"\\u{ord(mark):04x}".encode()) for mark in "\x85\u2028\u2029")


def frame(data: bytes, *, event: str = "", event_id: str = "") -> bytes:
    """One event; ``data`` is JSON on one line."""
    for mark, escape in LINE_ENDS:
        data = data.replace(mark, escape)
    head = f"event: {event}\n" if event else ""
    if event_id:
        head += f"id: {event_id}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)


class EventWriter:
    """Writes a stream of frames as one response body.

    The backlog of a client that reads slowly is bounded by its turn's length, and by the write timeout.
    """

    def __init__(
        self, frames: AsyncIterator[bytes], send: Send, *, keep_alive_s: float, write_timeout_s: float
    ) -> None:
        self._frames = frames
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._write_timeout_s = write_timeout_s
        self._backlog: list[bytes] = []
        self._is_ready = asyncio.Event()

    async def run(self) -> None:
        """Write until the frames end, then end the body.

        Raises:
            SlowClientError: a write was blocked for longer than the timeout.
        """
        pump = asyncio.create_task(self._pump())
        try:
            while not pump.done() or self._backlog:
                await self._write(await self._next())
            pump.result()
            await self._write(b"", more=False)
        finally:
            await cancelled(pump)

    async def _pump(self) -> None:
        try:
            async for data in self._frames:
                self._backlog.append(data)
                self._is_ready.set()
        finally:
            asyncio.get_running_loop().call_soon(self._is_ready.set)  # once this task counts as done

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._keep_alive_s):
                await self._is_ready.wait()
        except TimeoutError:
            return KEEP_ALIVE
        self._is_ready.clear()
        data = b"".join(self._backlog)
        self._backlog.clear()
        return data

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        if more and not data:
            return
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise SlowClientError from None
