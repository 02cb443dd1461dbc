"""The replica's end: one connection per owner, dialled on first use and kept.

When a connection ends, every attempt that was accepted on it is aborted: its owner is gone or has given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable

from cluster.channel.connection import Connection
from cluster.channel.messages import Abort, Accept, Beat, Step
from cluster.errors import ChannelError
from cluster.protocol import Finish, Served, Tokens

BEAT_INTERVAL_S = 0.5
DIAL_TIMEOUT_S = 2.0
UNREAD_BYTES = 2**16  # above this an owner does not keep up; for UNREAD_S, and its attempts are not worth computing
UNREAD_S = 5.0

Address = tuple[str, int]
AbortAttempt = Callable[[int], None]


class Link:
    """A live connection to one owner and the attempts it accepted."""

    def __init__(self, connection: Connection, address: Address) -> None:
        self.connection = connection
        self.address = address
        self.attempts: set[int] = set()
        self.is_open = True


class ChannelDialer:
    """All connections of one replica. ``abort`` is called for attempts whose owner no longer wants them."""

    def __init__(self, *, name: str, secret: bytes, abort: AbortAttempt) -> None:
        self._name = name
        self._secret = secret
        self._abort = abort
        self._links: dict[Address, Link] = {}
        self._owners: dict[int, Link] = {}
        self._unaccepted: dict[int, Served] = {}
        self._dialling: dict[Address, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def link(self, address: Address) -> Link:
        """The open link to an owner, dialled now if there is none.

        Raises:
            ChannelError: nobody listens there, or it does not know the secret.
        """
        async with self._dialling.setdefault(address, asyncio.Lock()):
            link = self._links.get(address)
            if link is None:
                link = self._links[address] = Link(await self._dial(address), address)
                self._own(self._read(link))
                self._own(self._beat(link))
            return link

    def claim(self, link: Link, attempt: int, served: Served) -> None:
        """Tie an attempt to its owner's link, before the engine hears of it.

        Raises:
            ChannelError: the link has closed meanwhile.
        """
        if not link.is_open:
            raise ChannelError(f"channel_unreachable {link.address[0]}:{link.address[1]}")
        link.attempts.add(attempt)
        self._owners[attempt] = link
        self._unaccepted[attempt] = served

    def accept(self, attempt: int) -> None:
        """Tell the owner that its attempt is queued here, unless a step has said so already.

        A link that closed meanwhile aborts the attempt.
        """
        link = self._owners.get(attempt)
        if link is None:
            self._unaccepted.pop(attempt, None)
            self._abort(attempt)
        elif served := self._unaccepted.pop(attempt, None):
            link.connection.send(Accept(attempt, served))

    def forget(self, attempt: int) -> None:
        """Untie an attempt that has ended or was refused."""
        self._unaccepted.pop(attempt, None)
        link = self._owners.pop(attempt, None)
        if link is not None:
            link.attempts.discard(attempt)

    def send_step(self, outputs: Iterable[tuple[int, Tokens | Finish]]) -> None:
        """Send what one engine step brought: one frame per owner. Budget: 20 µs plus 2 µs per row."""
        frames: dict[Address, tuple[Link, Step]] = {}
        for attempt, output in outputs:
            link = self._owners.get(attempt)
            if link is None:
                continue
            if attempt in self._unaccepted:
                self.accept(attempt)  # the first step may come before the engine's answer to submit
            _, step = frames.setdefault(link.address, (link, Step([], [])))
            if isinstance(output, Tokens):
                step.rows.append((attempt, output))
            else:
                step.ends.append((attempt, output))
                self.forget(attempt)
        for link, step in frames.values():
            link.connection.send(step)

    def cut(self) -> None:
        """Close every link now, so that the owners take their attempts elsewhere; new ones may be dialled."""
        for link in tuple(self._links.values()):
            link.connection.abort()

    async def close(self) -> None:
        """Close every link."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in tuple(self._links.values()):  # one whose tasks had not begun yet
            self._close(link)

    async def _dial(self, address: Address) -> Connection:
        host, port = address
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            raise ChannelError(f"channel_unreachable {host}:{port}") from error
        connection = Connection(reader, writer)
        try:
            await connection.greet(role="replica", name=self._name, secret=self._secret)
        except ChannelError:
            connection.close()
            raise
        return connection

    async def _read(self, link: Link) -> None:
        try:
            with contextlib.suppress(ChannelError):  # the owner went away: closing the link aborts its attempts
                while True:
                    message = await link.connection.receive()
                    if isinstance(message, Abort):
                        self._drop(message.attempt)
        finally:
            self._close(link)

    async def _beat(self, link: Link) -> None:
        """Show life; cut off an owner that has read too little for too long."""
        unread = 0
        while link.is_open:
            link.connection.send(Beat())
            unread = unread + 1 if link.connection.unsent_bytes > UNREAD_BYTES else 0
            if unread * BEAT_INTERVAL_S >= UNREAD_S:
                link.connection.abort()
            await asyncio.sleep(BEAT_INTERVAL_S)

    def _drop(self, attempt: int) -> None:
        self.forget(attempt)
        self._abort(attempt)

    def _close(self, link: Link) -> None:
        link.is_open = False
        link.connection.close()
        if self._links.get(link.address) is link:
            del self._links[link.address]
        for attempt in tuple(link.attempts):
            self._drop(attempt)

    def _own(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
