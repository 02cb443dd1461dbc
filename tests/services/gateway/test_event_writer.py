"""The writer of event streams: batching, keep-alive, slow clients, clean-up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.connection import SlowClientError
from services.gateway.sse import KEEP_ALIVE, EventWriter, frame


class Wire:
    """Collects what is sent; while ``is_open`` is unset, a write blocks."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_over = False
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.wrote = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.is_open.wait()
        self.is_over = not message["more_body"]
        if message["body"]:
            self.writes.append(message["body"])
        self.wrote.set()


def writer(frames: AsyncGenerator[bytes, None], wire: Wire, **limits: float) -> EventWriter:
    return EventWriter(frames, wire.send, **({"keep_alive_s": 60.0, "write_timeout_s": 60.0} | limits))


async def test_ready_events_share_a_write() -> None:
    """Events that are ready together are written together, in order, and the body is ended."""
    wire = Wire()

    async def burst() -> AsyncGenerator[bytes, None]:
        for data in (b"a", b"", b"b", b"c"):
            yield data

    await writer(burst(), wire).run()
    assert (wire.writes, wire.is_over) == ([b"abc"], True)


async def test_an_event_does_not_wait_for_the_next() -> None:
    """A single ready event is written at once."""
    wire, gate = Wire(), asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield b"a"
        await gate.wait()
        yield b"b"

    run = asyncio.create_task(writer(slow(), wire).run())
    await wire.wrote.wait()
    assert wire.writes == [b"a"]
    gate.set()
    await run
    assert wire.writes == [b"a", b"b"]


async def test_events_go_on_while_a_write_blocks() -> None:
    """A blocked client does not stop the turn; it gets the rest in one write."""
    wire, is_produced = Wire(), asyncio.Event()
    wire.is_open.clear()

    async def events() -> AsyncGenerator[bytes, None]:
        for data in (b"a", b"b", b"c"):
            yield data
            await asyncio.sleep(0)
        is_produced.set()

    run = asyncio.create_task(writer(events(), wire).run())
    await is_produced.wait()
    wire.is_open.set()
    await run
    assert b"".join(wire.writes) == b"abc"
    assert len(wire.writes) == 2


async def test_silence_is_broken_by_comments() -> None:
    """While a turn says nothing, comments keep the connection open; they are not events."""
    wire, gate = Wire(), asyncio.Event()

    async def silent() -> AsyncGenerator[bytes, None]:
        await gate.wait()
        yield b"a"

    run = asyncio.create_task(writer(silent(), wire, keep_alive_s=0.001).run())
    await wire.wrote.wait()
    gate.set()
    await run
    assert wire.writes[0] == KEEP_ALIVE == b": keep-alive\n\n"
    assert wire.writes[-1] == b"a"


async def test_a_client_that_does_not_read_is_dropped() -> None:
    """A write that stays blocked ends the stream, and the events' source is closed."""
    wire, is_closed = Wire(), asyncio.Event()
    wire.is_open.clear()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            is_closed.set()

    with pytest.raises(SlowClientError):
        await writer(endless(), wire, write_timeout_s=0.001).run()
    assert is_closed.is_set()


async def test_a_client_that_stops_reading_later_is_dropped_too() -> None:
    """Each write has its own time, however long the ones before took together; so has the body's end."""
    for last in (b"b", b""):
        wire = Wire()

        async def stops(wire: Wire = wire, last: bytes = last) -> AsyncGenerator[bytes, None]:
            yield b"a"
            await wire.wrote.wait()
            wire.is_open.clear()
            yield last

        with pytest.raises(SlowClientError):
            await writer(stops(), wire, write_timeout_s=0.01).run()
        assert (wire.writes, wire.is_over) == ([b"a"], False)


async def test_silence_after_an_event_is_broken_too() -> None:
    """The timer is shared, and a short write limit does not end a long wait."""
    wire, gate = Wire(), asyncio.Event()

    async def pauses() -> AsyncGenerator[bytes, None]:
        yield b"a"
        await gate.wait()

    run = asyncio.create_task(writer(pauses(), wire, keep_alive_s=0.01, write_timeout_s=0.001).run())
    await wire.wrote.wait()
    wire.wrote.clear()
    await wire.wrote.wait()
    gate.set()
    await run
    assert wire.writes[:2] == [b"a", KEEP_ALIVE]


async def test_an_error_of_the_source_is_not_swallowed() -> None:
    """What the source raises comes out after what it gave was written."""
    wire = Wire()

    async def breaks() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await writer(breaks(), wire).run()
    assert (wire.writes, wire.is_over) == ([b"a"], False)


def test_framing() -> None:
    """An event has its name, its id and one line of data."""
    assert frame(b"{}", event="e", event_id="1.ff") == b"event: e\nid: 1.ff\ndata: {}\n\n"
    assert frame(b"{}") == b"data: {}\n\n"


@given(st.text())
def test_an_event_is_one_line_to_every_line_reader(text: str) -> None:
    """Unicode's own line ends are escaped, and the text is unchanged for who parses it."""
    data = frame(msgspec.json.encode({"text": text})).decode()
    line, *rest = data.splitlines()
    assert rest == [""]
    assert json.loads(line.removeprefix("data: ")) == {"text": text}
