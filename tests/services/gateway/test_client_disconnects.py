"""A client that leaves ends its turn, whatever kind of answer it waits for and whoever tells that it left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI

from services.gateway.app import create_app
from services.gateway.deps import GatewayDeps, GatewayLimits
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import MODEL, make_deps, serving

STREAM = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
PLAIN = STREAM | {"stream": False}
PATIENCE_S = 10  # how long a broken gateway may take to be called broken


async def _ask(
    url: str, key: str, body: dict[str, Any], *, missing: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s" % (key.encode(), len(content) + missing, content)
    )
    return reader, writer


@pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["stream", "plain"])
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_closed_socket_ends_the_turn(
    deps: GatewayDeps, key: str, turns: FakeTurns, body: dict[str, Any], end: str
) -> None:
    """The turn's generator is closed while it waits in the middle of its answer, and nothing stays open."""
    turns.gate.clear()
    async with serving(create_app(deps)) as url:
        _, writer = await _ask(url, key, body)
        await turns.waiting.wait()
        getattr(writer.transport, end)()
        async with asyncio.timeout(PATIENCE_S):
            await turns.closed.wait()
    assert deps.counters.open_requests == 0
    assert list(deps.counters.requests) == [("/v1/chat/completions", "2xx" if body["stream"] else "gone")]


async def test_leaving_between_events(url: str, key: str, turns: FakeTurns) -> None:
    """A client that read the beginning and left is noticed as well."""
    turns.gate.clear()
    reader, writer = await _ask(url, key, STREAM)
    await reader.readuntil(b'"role":"assistant"')
    writer.close()
    async with asyncio.timeout(PATIENCE_S):
        await turns.closed.wait()


async def test_leaving_while_sending(deps: GatewayDeps, key: str, turns: FakeTurns) -> None:
    """A client that leaves in the middle of its own body starts no turn, and is not an error."""
    async with serving(create_app(deps)) as url:
        _, writer = await _ask(url, key, STREAM, missing=10)
        async with asyncio.timeout(PATIENCE_S):
            while not deps.counters.open_requests:  # noqa: ASYNC110 - a plain counter
                await asyncio.sleep(0)
        writer.close()
    assert list(deps.counters.requests) == [("/v1/chat/completions", "gone")]
    assert deps.counters.errors == {}
    assert turns.asked == []


async def test_a_finished_answer_is_not_an_abort(url: str, key: str, turns: FakeTurns) -> None:
    """A client that read everything leaves a turn that ended by itself."""
    reader, writer = await _ask(url, key, STREAM)
    await reader.readuntil(b"[DONE]")
    await reader.readuntil(b"0\r\n\r\n")
    writer.close()
    assert not turns.closed.is_set()


@pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["stream", "plain"])
async def test_a_cancelled_request_ends_the_turn(
    app: FastAPI, key: str, turns: FakeTurns, body: dict[str, Any]
) -> None:
    """Ray Serve cancels the request's task instead of telling; clean-up is over when the task is."""
    turns.gate.clear()
    request = asyncio.create_task(_call(app, key, body))
    await turns.waiting.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert turns.closed.is_set()


async def test_leaving_while_the_turn_waits_to_start(app: FastAPI, key: str, turns: FakeTurns) -> None:
    """A client may leave before any replica took its turn."""
    is_asked, is_over = asyncio.Event(), asyncio.Event()

    async def never_starts(*_: object) -> Any:
        try:
            is_asked.set()
            await asyncio.Event().wait()
            yield None
        finally:
            is_over.set()

    turns.chat = never_starts  # type: ignore[method-assign]  # a turn that is never taken
    async with serving(app) as url:
        _, writer = await _ask(url, key, STREAM)
        await is_asked.wait()
        writer.close()
        async with asyncio.timeout(PATIENCE_S):
            await is_over.wait()


async def test_a_client_that_does_not_read_is_dropped(turns: FakeTurns, keys: MemoryKeyStore, key: str) -> None:
    """A write that stays blocked ends the turn and is counted; the request itself ends quietly."""
    turns.gate.clear()
    limits = GatewayLimits(write_timeout_s=0.001)
    deps = make_deps(turns=turns, authenticator=Authenticator(keys), limits=limits)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    await _call(create_app(deps), key, STREAM, send)
    assert turns.closed.is_set()
    assert deps.counters.snapshot().slow_clients == 1


async def test_a_silent_turn_keeps_its_connection(turns: FakeTurns, keys: MemoryKeyStore, key: str) -> None:
    """While the engine thinks, comments go out, and the official clients' parsers skip them."""
    turns.gate.clear()
    limits = GatewayLimits(keep_alive_s=0.001)
    deps = make_deps(turns=turns, authenticator=Authenticator(keys), limits=limits)
    async with serving(create_app(deps)) as url:
        reader, writer = await _ask(url, key, STREAM)
        await reader.readuntil(b": keep-alive\n\n")
        turns.gate.set()
        await reader.readuntil(b"data: [DONE]\n\n")
        writer.close()


async def _ignore(message: Any) -> None:
    """Send to a client that reads everything."""


async def _call(app: FastAPI, key: str, body: dict[str, Any], send: Callable[[Any], Awaitable[None]] = _ignore) -> None:
    """One request straight into the application, from a client that stays."""
    pending = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if pending:
            return pending.pop()
        await asyncio.Event().wait()
        raise AssertionError

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": headers,
        "scheme": "http",
        "server": ("gateway", 80),
        "client": ("client", 1),
    }
    await app(scope, receive, send)
