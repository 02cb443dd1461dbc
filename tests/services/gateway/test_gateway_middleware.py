"""What surrounds every request: ids, log lines, counters, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import structlog

from cluster.tokenizer.tool_calls import ToolCall
from services.gateway.app import create_app
from services.gateway.deps import GatewayDeps, GatewayLimits
from services.gateway.schemas.models import ErrorBody
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import MODEL, connected, make_deps

PROMPT = "the prompt nobody may log"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """What is logged."""
    with structlog.testing.capture_logs() as entries:
        yield entries


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a;b", "<script>"])
async def test_odd_request_ids_are_replaced(client: httpx.AsyncClient, given: str) -> None:
    """An id that could do harm in a log or a header is not taken over."""
    reply = await client.get("/healthz", headers={"x-request-id": given.encode()})
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/v1/models"])
async def test_every_answer_has_the_request_id(client: httpx.AsyncClient, path: str) -> None:
    """A sane id comes back on successes and errors alike."""
    del client.headers["authorization"]
    reply = await client.get(path, headers={"x-request-id": "trace.1:a_b-c"})
    assert reply.headers["x-request-id"] == "trace.1:a_b-c"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_one_line_per_request(
    client: httpx.AsyncClient,
    logs: list[Any],
    is_stream: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """A request ends in one line with its facts."""
    await client.post("/v1/chat/completions", json=CHAT | {"stream": is_stream}, headers={"x-request-id": "r-1"})
    (line,) = logs
    assert line.pop("duration_ms") >= line.pop("first_text_ms") >= 0
    assert line == {
        "event": "gateway.request",
        "log_level": "info",
        "request_id": "r-1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "outcome": "done",
        "tenant": "acme",
        "rank": 1,
        "prompt_tokens": 7,
        "cached_tokens": 3,
        "output_tokens": 2,
    }


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_line_tells_that_a_tool_was_called(
    client: httpx.AsyncClient,
    turns: FakeTurns,
    logs: list[Any],
    is_stream: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """How many calls, but not of what or with what."""
    turns.deltas, turns.call = [], ToolCall("get_weather", {"city": PROMPT})
    await client.post("/v1/chat/completions", json=CHAT | {"stream": is_stream})
    (line,) = logs
    assert line["tool_calls"] == 1
    assert not any(secret in repr(line) for secret in (PROMPT, "get_weather"))


@pytest.mark.parametrize("error", [ValueError(PROMPT), KeyError(PROMPT)])
@pytest.mark.parametrize("field", ["refusal", "explosion"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_nothing_private_is_logged(  # noqa: PLR0917 - fixtures and parameters
    client: httpx.AsyncClient,
    turns: FakeTurns,
    key: str,
    logs: list[Any],
    error: Exception,
    field: str,
    is_stream: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """Not even an unexpected error's report tells prompt, answer or key; it tells type and place."""
    setattr(turns, field, error)
    await client.post("/v1/chat/completions", json=CHAT | {"stream": is_stream})
    report, line = logs
    assert (report["error"], line["error_code"], line["outcome"]) == (type(error).__name__, "internal_error", "failed")
    assert "fake_turns.py" in report["where"]
    told = repr(logs)
    assert not any(secret in told for secret in (PROMPT, key, "Hello"))


async def test_wrong_fields_are_not_logged(client: httpx.AsyncClient, logs: list[Any]) -> None:
    """A refused body leaves its error code, not its content."""
    await client.post("/v1/chat/completions", json=CHAT | {"temperature": PROMPT})
    assert PROMPT not in repr(logs)
    assert logs[0]["error_code"] == "invalid_request"


async def test_counters(client: httpx.AsyncClient, deps: GatewayDeps, turns: FakeTurns) -> None:
    """Requests are counted by route and class, errors by code; paths of strangers share one label."""
    await client.post("/v1/chat/completions", json=CHAT)
    await client.post("/v1/chat/completions", json={})
    turns.explosion = ValueError()
    await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    await client.get("/a")
    await client.get("/b")
    snapshot = deps.counters.snapshot()
    assert snapshot.requests == {
        ("/v1/chat/completions", "2xx"): 2,
        ("/v1/chat/completions", "4xx"): 1,
        ("unmatched", "4xx"): 2,
    }
    assert snapshot.errors == {"invalid_request": 1, "internal_error": 1, "not_found": 2}
    assert snapshot.open_requests == 0


@pytest.fixture
async def small(keys: MemoryKeyStore, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that takes 100 bytes."""
    deps = make_deps(authenticator=Authenticator(keys), limits=GatewayLimits(max_body_bytes=100))
    async with connected(create_app(deps), key) as client:
        yield client


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_bodies_over_the_limit(
    small: httpx.AsyncClient,
    is_chunked: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """A large body is a 413 in the usual shape, whether its length was announced or not."""
    content: Any = _chunks(b" " * 60, b" " * 60) if is_chunked else b" " * 101
    reply = await small.post("/v1/conversations", content=content)
    assert reply.status_code == 413
    assert ErrorBody.model_validate(reply.json()).error.code == "body_too_large"


@pytest.mark.parametrize("content", [b"{}" + b" " * 98, b"{}"])
async def test_bodies_within_the_limit(small: httpx.AsyncClient, content: bytes) -> None:
    """The limit itself is still fine."""
    assert (await small.post("/v1/conversations", content=content)).status_code == 200


async def test_a_large_body_on_a_real_connection(url: str, key: str) -> None:
    """The client can finish sending, read the 413, and use the connection again."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=httpx.Limits(max_connections=1)) as client:
        reply = await client.post("/v1/conversations", content=b" " * (6 * 2**20))
        again = await client.post("/v1/conversations", json={})
    assert (reply.status_code, again.status_code) == (413, 200)
