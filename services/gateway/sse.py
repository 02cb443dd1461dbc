"""Server-sent events: framing, and a writer that never lets one side wait for the other.

Events are rendered as soon as they exist and written together when several are ready; a silent stream gets a comment
now and then, so that proxies keep it open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Send

from services.gateway.connection import SlowClientError, cancelled
from services.json_line import one_line

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


def frame(data: bytes, *, event: str = "", event_id: str = "") -> bytes:
    """One event; ``data`` is JSON."""
    data = one_line(data)
    head = f"event: {event}\n" if event else ""
    if event_id:
        head += f"id: {event_id}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)


class EventWriter:
    """Writes a stream of frames as one response body.

    The backlog of a client that reads slowly is bounded by its turn's length, and by the write timeout. A token costs
    two waits, so they share one timer that looks now and then whether the present one takes too long: a timeout of its
    own for each would cost as much as the rest of this class.
    """

    def __init__(
        self, frames: AsyncIterator[bytes], send: Send, *, keep_alive_s: float, write_timeout_s: float
    ) -> None:
        self._frames = frames
        self._send = send
        self._keep_alive_s = keep_alive_s
        self._write_timeout_s = write_timeout_s
        self._look_s = min(keep_alive_s, write_timeout_s)  # whichever wait begins meanwhile does not end sooner
        self._loop = asyncio.get_running_loop()
        self._backlog: list[bytes] = []
        self._is_complete = False
        self._news: asyncio.Future[None] | None = None  # while the writer has nothing to write
        self._is_writing = False
        self._since = self._loop.time()  # of the present wait
        self._slow: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Write until the frames end, then end the body.

        Raises:
            SlowClientError: a write was blocked for longer than the timeout.
        """
        pump = asyncio.create_task(self._pump())
        writer = asyncio.create_task(self._write_all(pump))
        self._look_again(self._look_s)
        try:
            await asyncio.wait((writer, self._slow), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._timer.cancel()
            await cancelled(pump, writer)
        if self._slow.done():
            raise SlowClientError
        writer.result()
        await self._end()

    async def _pump(self) -> None:
        try:
            async for data in self._frames:
                self._add(data)
        finally:
            self._is_complete = True
            self._wake()

    def _add(self, data: bytes) -> None:
        if data:
            self._backlog.append(data)
            self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _write_all(self, pump: asyncio.Task[None]) -> None:
        while self._backlog or not self._is_complete:
            if not self._backlog:
                self._news = self._loop.create_future()
                await self._news
            data = b"".join(self._backlog)
            self._backlog.clear()
            await self._write(data)
        pump.result()

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        self._is_writing, self._since = True, self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._is_writing, self._since = False, self._loop.time()

    async def _end(self) -> None:
        """Nothing may follow this write: a server tells of a closed connection once the body has ended."""
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            raise SlowClientError from None

    def _look(self) -> None:
        limit_s = self._write_timeout_s if self._is_writing else self._keep_alive_s
        left_s = self._since + limit_s - self._loop.time()
        if left_s > 0:
            self._look_again(left_s)
        elif self._is_writing:
            self._slow.set_result(None)
        else:
            self._add(KEEP_ALIVE)
            self._look_again(self._keep_alive_s)

    def _look_again(self, left_s: float) -> None:
        self._timer = self._loop.call_later(min(left_s, self._look_s), self._look)
