"""The proxy that chaos cuts connections with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.support.proxy import Flow, TcpProxy, proxy_to
from tests.support.turn_kit import until

Ask = Callable[[], Awaitable[bytes]]


class Echo:
    """A server that repeats each line, and keeps it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.heard.append(line)
            writer.write(line)
        writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TcpProxy]:
    """In front of an echo."""
    server = await asyncio.start_server(echo.serve, "127.0.0.1")
    async with server, proxy_to(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@pytest.fixture
async def ask(proxy: TcpProxy) -> AsyncIterator[Ask]:
    """Sends a line over one connection, and replies the next line that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)

    async def ask() -> bytes:
        writer.write(b"hello\n")
        return await reader.readline()

    yield ask
    writer.transport.abort()


async def test_it_forwards_both_ways(ask: Ask) -> None:
    """Line by line."""
    assert await ask() == b"hello\n"
    assert await ask() == b"hello\n"


async def test_while_it_refuses_nobody_is_connected(proxy: TcpProxy, ask: Ask) -> None:
    """Who was, is cut off; later, new connections are welcome."""
    await ask()
    await proxy.set(Flow.REFUSED)
    assert await ask() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.set(Flow.PASSES)
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.transport.abort()


async def test_a_stall_loses_nothing(proxy: TcpProxy, ask: Ask, echo: Echo) -> None:
    """What was sent meanwhile arrives when it is over."""
    await ask()
    await proxy.set(Flow.STALLED)
    asked = asyncio.ensure_future(ask())
    await asyncio.sleep(0.05)
    assert (asked.done(), len(echo.heard)) == (False, 1)
    await proxy.set(Flow.PASSES)
    assert await asked == b"hello\n"


async def test_a_deaf_connection_is_heard_and_hears_nothing(proxy: TcpProxy, ask: Ask, echo: Echo) -> None:
    """What was sent is done; its reply is lost for good, and the connection with it."""
    await ask()
    await proxy.set(Flow.DEAF)
    asked = asyncio.ensure_future(ask())
    await until(lambda: len(echo.heard) == 2)
    await proxy.set(Flow.PASSES)
    assert await asked == b""
