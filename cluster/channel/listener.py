"""The owner's end: listens for replicas and hands each attempt its events.

An attempt belongs to the first connection that accepted it. Frames for attempts nobody waits for are answered with
``Abort``, whoever sends them: Serve may itself repeat a call whose acceptance it could not see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.channel.connection import Connection
from cluster.channel.messages import Abort, Accept, Beat, Message, Step
from cluster.errors import ChannelError
from cluster.protocol import Event, Finish, Tokens

SILENCE_S = 10.0  # a replica beats every 0.5 s; one that says nothing for this long is taken for dead


class Lost:
    """The attempt's connection ended before its ``Finish``."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Mailbox:
    """Events of one attempt, in order. Bounded by the attempt's own ``max_new_tokens``."""

    def __init__(self, attempt: int, forget: Callable[[Mailbox], None]) -> None:
        self.attempt = attempt
        self.connection: Connection | None = None
        self._next = 0
        self._queue: asyncio.Queue[object] = asyncio.Queue()
        self._forget = forget

    def put(self, item: object) -> None:
        """Add an event, or whatever else the owner of the mailbox wants to wait for in the same place."""
        self._queue.put_nowait(item)

    async def get(self) -> object:
        """The next item."""
        return await self._queue.get()

    def begin_at(self, index: int) -> None:
        """Say which output index comes first; a gap later counts as a lost channel."""
        self._next = index

    def put_tokens(self, tokens: Tokens) -> None:
        """Add ids, or a ``Lost`` when ids before them are missing."""
        if tokens.start != self._next:
            self.put(Lost(f"expected output index {self._next}, got {tokens.start}"))
            return
        self._next += len(tokens.ids)
        self.put(tokens)

    def close(self) -> None:
        """Nobody waits any more; whatever still runs for this attempt is aborted."""
        if self.connection is not None:
            self.connection.send(Abort(self.attempt))
        self._forget(self)


class ChannelListener:
    """Accepts connections of replicas on ``host`` and keeps the mailboxes of this process's attempts."""

    def __init__(self, *, name: str, secret: bytes, silence_s: float = SILENCE_S) -> None:
        self._name = name
        self._secret = secret
        self._silence_s = silence_s
        self._mailboxes: dict[int, Mailbox] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str) -> int:
        """Listen on a free port of ``host``; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def open(self, attempt: int, *, begin_at: int = 0) -> Mailbox:
        """A mailbox for an attempt about to be sent; close it when done."""
        mailbox = Mailbox(attempt, self._forget)
        mailbox.begin_at(begin_at)
        self._mailboxes[attempt] = mailbox
        return mailbox

    def _forget(self, mailbox: Mailbox) -> None:
        self._mailboxes.pop(mailbox.attempt, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        connection = Connection(reader, writer)
        reason = "the owner is closing"
        try:
            await connection.greet(role="owner", name=self._name, secret=self._secret)
            await self._read(connection)
        except ChannelError as error:
            reason = str(error)
        except asyncio.CancelledError:
            if not task.cancelling():
                raise
        finally:
            self._connections.discard(task)
            connection.close()
            self._lose(connection, reason)

    async def _read(self, connection: Connection) -> None:
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    message = await connection.receive()
            except TimeoutError as error:
                raise ChannelError(f"{connection.peer} was silent for {self._silence_s:g} s") from error
            self._dispatch(connection, message)

    def _dispatch(self, connection: Connection, message: Message) -> None:
        if isinstance(message, Step):
            for attempt, tokens in message.rows:
                if mailbox := self._mailbox(connection, attempt):
                    mailbox.put_tokens(tokens)
            for attempt, finish in message.ends:
                self._finish(connection, attempt, finish)
        elif isinstance(message, Accept):
            self._accept(connection, message)
        elif not isinstance(message, Beat):
            raise ChannelError(f"{connection.peer} sent a {type(message).__name__} out of turn")

    def _accept(self, connection: Connection, accept: Accept) -> None:
        mailbox = self._mailboxes.get(accept.attempt)
        if mailbox is None or mailbox.connection is not None:
            connection.send(Abort(accept.attempt))
            return
        mailbox.connection = connection
        mailbox.put(accept.served)

    def _mailbox(self, connection: Connection, attempt: int) -> Mailbox | None:
        mailbox = self._mailboxes.get(attempt)
        if mailbox is None or mailbox.connection is not connection:
            connection.send(Abort(attempt))
            return None
        return mailbox

    def _finish(self, connection: Connection, attempt: int, finish: Finish) -> None:
        mailbox = self._mailboxes.get(attempt)
        if mailbox is not None and mailbox.connection is connection:
            event: Event = finish
            mailbox.put(event)

    def _lose(self, connection: Connection, reason: str) -> None:
        for mailbox in self._mailboxes.values():
            if mailbox.connection is connection:
                mailbox.connection = None
                mailbox.put(Lost(reason))
