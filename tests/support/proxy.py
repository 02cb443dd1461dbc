"""A TCP proxy that a test can break: between a cluster and its store, or between clients and gateways."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Coroutine, Sequence
from enum import StrEnum

from services.ports import unused_port

_CHUNK = 64 * 1024


class Flow(StrEnum):
    """What becomes of bytes."""

    PASSES = "passes"
    REFUSED = "refused"  # nobody listens, and what was connected is cut
    STALLED = "stalled"  # nothing moves, nothing is lost: what was sent arrives when the stall is over
    DEAF = "deaf"  # what is sent arrives; what is replied is lost, and its connection with it


class TcpProxy:
    """Forwards connections to targets in turn, ports on this machine. ``start`` it, and ``stop`` it.

    Attributes:
        port: where it listens.
        targets: where it connects to; may be changed.
    """

    def __init__(self, targets: Sequence[int]) -> None:
        self.port = unused_port()
        self.targets = list(targets)
        self._next = itertools.count()
        self._flow = Flow.PASSES
        self._moves = asyncio.Event()
        self._moves.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Cut everything."""
        await self._close()
        await self._cut()

    async def set(self, flow: Flow) -> None:
        """From now on, bytes go this way. Leaving ``DEAF`` cuts the connections whose replies were lost."""
        before, self._flow = self._flow, flow
        if flow is Flow.STALLED:
            self._moves.clear()
        else:
            self._moves.set()
        if flow is Flow.REFUSED:
            await self._close()
        if flow is Flow.REFUSED or before is Flow.DEAF:
            await self._cut()
        if self._server is None and flow is not Flow.REFUSED:
            await self.start()

    async def drop(self) -> None:
        """Cut all connections; new ones are welcome."""
        await self._cut()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _cut(self) -> None:
        cut = set(self._connections)
        for connection in cut:
            connection.cancel()
        if cut:
            await asyncio.wait(cut)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection. The stream server would report its cancellation as an error, so it is a task of ours."""
        task = asyncio.create_task(self._forward(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.transport.abort())  # also of one that was cut before it began

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self.targets[next(self._next) % len(self.targets)]
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", target)
            try:
                await self._both(self._pump(reader, back, is_reply=False), self._pump(there, writer, is_reply=True))
            finally:
                back.transport.abort()

    async def _both(self, *ways: Coroutine[None, None, None]) -> None:
        """Until one of them ends; that ends the other one too."""
        tasks = {asyncio.ensure_future(way) for way in ways}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        while data := await reader.read(_CHUNK):
            await self._moves.wait()
            if is_reply and self._flow is Flow.DEAF:
                continue
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def proxy_to(*targets: int) -> AsyncIterator[TcpProxy]:
    """A proxy for the time of a ``with``."""
    proxy = TcpProxy(targets)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
