"""The owner's end: listens for replicas and hands each attempt its events.

An attempt belongs to the first connection that accepted it. Frames for attempts nobody waits for are answered with
``Abort``, whoever sends them: Serve may itself repeat a call whose acceptance it could not see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cluster.channel.connection import Connection
from cluster.channel.messages import Abort, Accept, Beat, Message, Step
from cluster.channel.vitals import Vitals
from cluster.errors import ChannelError
from cluster.protocol import Event, Finish, Tokens

SILENCE_S = 2.8  # a replica beats every 0.5 s; one that says nothing for this long is found dead within 3 s
TICK_S = 0.1


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
    """Accepts connections of replicas on ``host`` and keeps the mailboxes of this process's attempts.

    Args:
        name: of this process, for the replicas' logs.
        secret: of the cluster.
        on_silent: told the name of a replica that has said nothing for ``silence_s``; its attempts are lost then.
        silence_s: seconds.
    """

    def __init__(
        self, *, name: str, secret: bytes, on_silent: Callable[[str], None], silence_s: float = SILENCE_S
    ) -> None:
        self._name = name
        self._secret = secret
        self._on_silent = on_silent
        self._silence_s = silence_s
        self._vitals: Vitals[Connection] = Vitals(silence_s=silence_s, tick_s=TICK_S)
        self._mailboxes: dict[int, Mailbox] = {}
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._connections: dict[Connection, asyncio.Task[None]] = {}

    async def start(self, host: str) -> int:
        """Listen on a free port of ``host``; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close the port and every connection."""
        tasks = list(self._connections.values())
        if self._server is not None and self._watching is not None:
            self._server.close()
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def silent_s(self, peer: str) -> float | None:
        """Seconds since a replica was last heard; None when it has no connection to this process."""
        silences = [self._vitals.silent_s(connection) for connection in self._connections if connection.peer == peer]
        return min((silence for silence in silences if silence is not None), default=None)

    def serving(self) -> set[str]:
        """Names of the replicas that have accepted an attempt which has not ended."""
        return {box.connection.peer for box in self._mailboxes.values() if box.connection is not None}

    def give_up(self, peer: str, reason: str) -> None:
        """Lose every attempt that a replica has accepted, although it still speaks."""
        for mailbox in self._mailboxes.values():
            if mailbox.connection is not None and mailbox.connection.peer == peer:
                mailbox.put(Lost(reason))

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
        connection = Connection(reader, writer)
        self._connections[connection] = task
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
            connection.close()
            self._lose(connection, reason)
            del self._connections[connection]

    async def _read(self, connection: Connection) -> None:
        while True:
            self._vitals.hear(connection)
            self._dispatch(connection, await connection.receive())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._vitals.tick_s)
            for connection in self._vitals.check():
                self._on_silent(connection.peer)
                self._lose(connection, f"{connection.peer} was silent for {self._silence_s:g} s")
                connection.abort()

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
        """The connection has ended, or is about to; what is lost once stays so."""
        self._vitals.forget(connection)
        for mailbox in self._mailboxes.values():
            if mailbox.connection is connection:
                mailbox.connection = None
                mailbox.put(Lost(reason))
