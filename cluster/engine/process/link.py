"""One end of the socket pair as an asyncio protocol: messages in, messages out, and whether the other end reads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from cluster.engine.process.messages import FrameReader

HIGH_WATER_BYTES = 2**18

Incoming = TypeVar("Incoming")


class Link(asyncio.Protocol, Generic[Incoming]):
    """Calls back on the loop.

    Args:
        reader: cuts what comes in.
        take: called with each message.
        ended: called once when the other end, or this one, has closed.
        resumed: called when the other end reads again after ``is_congested``.
    """

    def __init__(
        self,
        reader: FrameReader[Incoming],
        take: Callable[[Incoming], None],
        ended: Callable[[], None],
        resumed: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader = reader
        self._take = take
        self._ended = ended
        self._resumed = resumed
        self._transport: asyncio.Transport | None = None
        self.is_congested = False

    async def open(self, end: socket.socket) -> None:
        """Take the socket over."""
        await asyncio.get_running_loop().create_connection(lambda: self, sock=end)

    def send(self, frame: bytes) -> None:
        """Queue a frame (``encode_frame``); never waits. What is sent to a closed end is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        """Send what is queued, then close."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        """See asyncio, which closes the connection when this raises."""
        for message in self._reader.feed(data):
            self._take(message)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """See asyncio."""
        self._ended()

    def pause_writing(self) -> None:
        """See asyncio."""
        self.is_congested = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self.is_congested = False
        self._resumed()
