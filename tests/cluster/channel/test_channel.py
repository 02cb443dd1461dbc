"""The token channel between real sockets: what arrives, and what happens when either side goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cluster.channel.connection import Connection
from cluster.channel.dialer import ChannelDialer
from cluster.channel.listener import ChannelListener, Lost
from cluster.channel.messages import Accept, Hello, Step
from cluster.errors import ChannelError
from cluster.protocol import Finish, FinishReason, Served, Tokens, Usage

SECRET = b"a secret of this cluster"
SERVED = Served(rank=1, incarnation="r1", why="pinned")
FINISH = Finish(reason=FinishReason.STOP, total=3, usage=Usage(prompt_tokens=4, cached_tokens=0, output_tokens=3))


class Pair:
    """A listener and a dialer, and the attempts the dialer was told to abort."""

    def __init__(self, listener: ChannelListener, dialer: ChannelDialer, address: tuple[str, int]) -> None:
        self.listener = listener
        self.dialer = dialer
        self.address = address
        self.aborted: asyncio.Queue[int] = asyncio.Queue()
        self.silent: list[str] = []

    async def accept(self, attempt: int) -> None:
        link = await self.dialer.link(self.address)
        self.dialer.claim(link, attempt, SERVED)
        self.dialer.accept(attempt)


@asynccontextmanager
async def channel(*, secret: bytes = SECRET, silence_s: float = 10) -> AsyncIterator[Pair]:
    silent: list[str] = []
    listener = ChannelListener(name="owner", secret=SECRET, silence_s=silence_s, on_silent=silent.append)
    port = await listener.start("127.0.0.1")
    dialer = ChannelDialer(name="r1", secret=secret, abort=lambda attempt: pair.aborted.put_nowait(attempt))  # noqa: PLW0108 - pair comes later
    pair = Pair(listener, dialer, ("127.0.0.1", port))
    pair.silent = silent
    try:
        yield pair
    finally:
        await dialer.close()
        await listener.stop()


async def test_an_attempt_receives_its_steps_in_order() -> None:
    """Accept, tokens and finish arrive as they were sent."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        await pair.accept(7)
        pair.dialer.send_step([(7, Tokens(start=0, ids=[10])), (8, Tokens(start=0, ids=[99]))])
        pair.dialer.send_step([(7, Tokens(start=1, ids=[11, 12])), (7, FINISH)])
        received = [await mailbox.get() for _ in range(4)]
        assert received == [SERVED, Tokens(start=0, ids=[10]), Tokens(start=1, ids=[11, 12]), FINISH]


async def test_a_step_that_overtakes_the_acceptance_is_not_lost() -> None:
    """The engine may step before submit returns; the owner still sees the acceptance first."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        link = await pair.dialer.link(pair.address)
        pair.dialer.claim(link, 7, SERVED)
        pair.dialer.send_step([(7, Tokens(start=0, ids=[10]))])
        pair.dialer.accept(7)
        assert [await mailbox.get(), await mailbox.get()] == [SERVED, Tokens(start=0, ids=[10])]


async def test_closing_a_mailbox_aborts_the_attempt() -> None:
    """The replica hears at once that nobody waits any more."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        await pair.accept(7)
        await mailbox.get()
        mailbox.close()
        assert await pair.aborted.get() == 7


async def test_an_attempt_nobody_waits_for_is_aborted() -> None:
    """An acceptance without a mailbox is answered with an abort."""
    async with channel() as pair:
        await pair.accept(5)
        assert await pair.aborted.get() == 5


async def test_missing_ids_count_as_a_lost_channel() -> None:
    """A gap in the output indices is never spliced over."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        await pair.accept(7)
        pair.dialer.send_step([(7, Tokens(start=1, ids=[11]))])
        assert await mailbox.get() == SERVED
        assert isinstance(await mailbox.get(), Lost)


async def test_a_dead_replica_loses_its_attempts_and_no_others() -> None:
    """EOF reaches every attempt accepted on that connection."""
    async with channel() as pair:
        mailbox, other = pair.listener.open(7), pair.listener.open(8)
        await pair.accept(7)
        await mailbox.get()
        await pair.dialer.close()
        assert isinstance(await mailbox.get(), Lost)
        assert other.connection is None


async def test_a_dead_owner_aborts_its_attempts() -> None:
    """The replica does not compute for an owner that is gone."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        await pair.accept(7)
        await mailbox.get()
        await pair.listener.stop()
        assert await pair.aborted.get() == 7


async def test_a_silent_replica_is_taken_for_dead() -> None:
    """A peer that neither speaks nor closes is cut off."""
    async with channel(silence_s=0.05) as pair:
        mailbox = pair.listener.open(7)
        connection = Connection(*await asyncio.open_connection(*pair.address))
        await connection.greet(role="replica", name="frozen", secret=SECRET)
        connection.send(Accept(7, SERVED))
        assert await mailbox.get() == SERVED
        lost = await mailbox.get()
        assert isinstance(lost, Lost)
        assert "silent" in lost.reason
        assert pair.silent == ["frozen"]
        assert pair.listener.silent_s("frozen") is None
        with pytest.raises(ChannelError):
            await connection.receive()
        connection.close()


async def test_a_replica_that_beats_is_not_silent() -> None:
    """A long prefill brings no tokens, but the replica shows life; nobody else has a silence."""
    async with channel(silence_s=5) as pair:
        await pair.accept(7)
        silence = pair.listener.silent_s("r1")
        assert silence is not None
        assert silence < 5
        assert pair.listener.silent_s("r2") is None


async def test_a_replica_that_is_given_up_loses_its_attempts_and_is_told() -> None:
    """A draining replica still speaks; its turns go elsewhere, and it computes nothing more for them."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        await pair.accept(7)
        await mailbox.get()
        assert pair.listener.serving() == {"r1"}
        pair.listener.give_up("r1", "it drains")
        lost = await mailbox.get()
        assert isinstance(lost, Lost)
        mailbox.close()
        assert await pair.aborted.get() == 7
        assert pair.listener.serving() == set()


async def test_an_owner_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attempts are aborted long before the buffer of 8 MiB is full."""
    monkeypatch.setattr("cluster.channel.dialer.BEAT_INTERVAL_S", 0.01)
    monkeypatch.setattr("cluster.channel.dialer.UNREAD_S", 0.05)
    is_over, deaf_ended = asyncio.Event(), asyncio.Event()

    async def be_deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer).greet(role="owner", name="deaf", secret=SECRET)
        await is_over.wait()
        writer.transport.abort()
        deaf_ended.set()

    deaf = await asyncio.start_server(be_deaf, "127.0.0.1", 0)
    aborted: asyncio.Queue[int] = asyncio.Queue()
    dialer = ChannelDialer(name="r1", secret=SECRET, abort=aborted.put_nowait)
    link = await dialer.link(deaf.sockets[0].getsockname())
    dialer.claim(link, 7, SERVED)
    dialer.accept(7)
    start = 0
    while aborted.empty() and start < 2**21:
        dialer.send_step([(7, Tokens(start=start, ids=list(range(4096))))])
        start += 4096
        await asyncio.sleep(0.001)
    assert await aborted.get() == 7
    is_over.set()
    await deaf_ended.wait()
    await dialer.close()
    deaf.close()
    await deaf.wait_closed()


async def test_cutting_the_links_sends_every_attempt_elsewhere() -> None:
    """A replica whose engine is stuck says so by closing; it can be dialled from again."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        await pair.accept(7)
        await mailbox.get()
        pair.dialer.cut()
        assert isinstance(await mailbox.get(), Lost)
        assert await pair.aborted.get() == 7
        assert (await pair.dialer.link(pair.address)).is_open


async def test_a_dial_that_fails_names_the_address() -> None:
    """Nothing is computed for an owner that cannot be reached."""
    async with channel() as pair:
        with pytest.raises(ChannelError, match=r"channel_unreachable 127\.0\.0\.1:1"):
            await pair.dialer.link(("127.0.0.1", 1))


async def test_a_peer_without_the_secret_is_refused() -> None:
    """A wrong secret ends in the handshake, on both sides."""
    async with channel(secret=b"another secret") as pair:
        with pytest.raises(ChannelError):
            await pair.dialer.link(pair.address)


async def test_a_reflected_handshake_is_refused() -> None:
    """A peer that only echoes what it receives proves nothing."""
    async with channel() as pair:
        reader, writer = await asyncio.open_connection(*pair.address)
        await _echo(reader, writer)
        assert reader.at_eof()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def test_nobody_speaks_before_the_handshake() -> None:
    """A step instead of a hello closes the connection without touching any attempt."""
    async with channel() as pair:
        mailbox = pair.listener.open(7)
        reader, writer = await asyncio.open_connection(*pair.address)
        connection = Connection(reader, writer)
        connection.send(Step([(7, Tokens(start=0, ids=[1]))]))
        hello = await connection.receive()
        assert isinstance(hello, Hello)
        with pytest.raises(ChannelError):
            await connection.receive()
        connection.close()
        assert mailbox.connection is None


async def test_a_frame_that_is_too_long_closes_the_connection() -> None:
    """A length of gigabytes allocates nothing."""
    async with channel() as pair:
        reader, writer = await asyncio.open_connection(*pair.address)
        writer.write(b"\xff\xff\xff\xff")
        await reader.read()
        writer.close()
