"""A TCP proxy that breaks connections in mid-answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on. The first ``cuts`` answers end without a word once ``after`` bytes of them were passed on.

    Attributes:
        connections: that clients have opened.
    """

    def __init__(self, url: str, *, cuts: int, after: int) -> None:
        self.connections = 0
        self._target = urlsplit(url)
        self._cuts = cuts
        self._after = after

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its own URL."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        left = self._after if self.connections <= self._cuts else -1
        answers, requests = await asyncio.open_connection(self._target.hostname, self._target.port)
        asking = asyncio.create_task(_pass_on(reader, requests))
        await _pass_on(answers, writer, left)
        asking.cancel()
        requests.close()
        writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int = -1) -> None:
    """Until the end, or for ``left`` bytes."""
    while left and (data := await reader.read(1 if left > 0 else 65_536)):
        writer.write(data)
        await writer.drain()
        left -= left > 0
    await writer.drain()
