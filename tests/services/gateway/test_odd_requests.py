"""Requests that no client of ours makes: each gets an answer in the usual shape, and none is a 5xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from services.gateway.schemas.models import ErrorBody
from tests.support.gateway import MODEL

LONG = "a" * 60_000
RESPONSE = "/v1/responses/resp_" + "a" * 32
ITEMS = "/v1/conversations/conv_" + "a" * 16 + "/items"
TURN = json.dumps({"model": MODEL, "input": "hi"}).encode()


async def send(url: str, head: bytes, key: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request of exactly these bytes."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    rest = f"Authorization: Bearer {key}\r\nConnection: close\r\nContent-Length: {len(TURN)}\r\n\r\n"
    writer.write(head + b"\r\n" + rest.encode() + TURN)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    top, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def error_of(body: bytes) -> Any:
    """The error, in OpenAI's shape."""
    return ErrorBody.model_validate_json(body).error


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: [", 404, "not_found"),
        (b"GET /nowhere?%ff=%00 HTTP/1.1\r\nHost: a b/\\x", 404, "not_found"),
        (b"GET //v1/models HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/conversations/ HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/models/../models HTTP/1.1\r\nHost: x", 404, "model_not_found"),
        (b"GET /v1/models/ HTTP/1.1\r\nHost: x", 404, "model_not_found"),
        (b"GET /v1/conversations/%00 HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/conversations/%ff%fe HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/responses/%ed%a0%80?stream=true HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/conversations/conv_a%2Fitems HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/conversations/%E2%80%AE%F0%9F%92%A9/items/%0d%0aX:%20y HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/conversations/" + LONG.encode() + b" HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"GET /v1/models/" + LONG.encode() + b" HTTP/1.1\r\nHost: x", 404, "model_not_found"),
        (b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nIdempotency-Key: \xff", 400, "invalid_request"),
        (b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nIdempotency-Key:", 400, "invalid_request"),
        (b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nIdempotency-Key: " + b"k" * 256, 400, "invalid_request"),
        (b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain", 415, "unsupported_media_type"),
        (b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: \xff", 415, "unsupported_media_type"),
        (b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip", 415, "unsupported_media_type"),
        (b"OPTIONS /v1/models HTTP/1.1\r\nHost: x", 405, "method_not_allowed"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x", 404, "not_found"),
        (b"TRACE /v1/responses HTTP/1.1\r\nHost: x", 405, "method_not_allowed"),
    ],
    ids=lambda value: value[:50].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_odd_requests_are_refused_in_the_usual_shape(
    url: str, key: str, line: bytes, status: int, code: str
) -> None:
    """Hosts, paths, methods and headers of strangers; none of them is repeated at length."""
    answered, headers, body = await send(url, line, key)
    assert (answered, error_of(body).code) == (status, code)
    assert headers["content-type"] == "application/json"
    assert len(body) < 1000


@pytest.mark.parametrize(
    "media", [b"application/json", b"Application/JSON; charset=utf-8", b"application/json;charset=latin-1"]
)
async def test_json_is_json_however_it_is_announced(url: str, key: str, media: bytes) -> None:
    """Case and parameters mean nothing; a body that is not announced at all is the other tests'."""
    status, _, body = await send(url, b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: " + media, key)
    assert status == 200, body


async def test_a_head_request_has_no_body(url: str, key: str) -> None:
    """It is refused like any other method that a path does not have."""
    status, headers, body = await send(url, b"HEAD /v1/models HTTP/1.1\r\nHost: x", key)
    assert (status, headers["allow"], body) == (405, "get", b"")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/conversations/conv_x", "DELETE, GET, POST"),
        ("OPTIONS", "/v1/conversations/conv_x/items/msg_x", "DELETE, GET"),
        ("PATCH", ITEMS, "GET, POST"),
        ("GET", "/v1/responses", "POST"),
        ("DELETE", "/v1/models/" + MODEL, "GET"),
        ("POST", "/docs", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_all_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """Those of every route of the path, in the header and in words."""
    reply = await client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
    assert error_of(reply.content).message == f"{method} {path} is not allowed; use {allowed}."
    assert error_of(reply.content).code == "method_not_allowed"


@pytest.mark.parametrize(
    ("path", "param"),
    [
        (ITEMS + "?limit=1&limit=2", "limit"),
        (ITEMS + "?order=asc&after=&order=asc", "order"),
        (ITEMS + "?limit=1_0", "limit"),
        (ITEMS + "?limit=+5", "limit"),
        (ITEMS + "?limit=5.0", "limit"),
        (ITEMS + "?limit=", "limit"),
        (ITEMS + "?limit=" + "9" * 5000, "limit"),
        (ITEMS + "?limit=%D9%A3", "limit"),
        (ITEMS + "?order=ASC", "order"),
        (RESPONSE + "?stream=yes", "stream"),
        (RESPONSE + "?stream=", "stream"),
        (RESPONSE + "?stream=true&stream=true", "stream"),
        (RESPONSE + "?starting_after=1", "starting_after"),
        (RESPONSE + "?stream=true&starting_after=-1", "starting_after"),
        (RESPONSE + "?stream=true&starting_after=2147483648", "starting_after"),
        (RESPONSE + "?include=all", "include[0]"),
        (RESPONSE + "/input_items?limit=101", "limit"),
        (RESPONSE + "/cancel?" + "x" * 500 + "=1&" + "x" * 500 + "=2", "x" * 128),
    ],
    ids=lambda value: value[:60],
)
async def test_a_wrong_query_is_named(client: httpx.AsyncClient, path: str, param: str) -> None:
    """Each parameter once, in one spelling, within its bounds."""
    reply = await client.request("POST" if "/cancel" in path else "GET", path)
    assert (reply.status_code, error_of(reply.content).param) == (400, param)


async def test_unknown_parameters_are_ignored(client: httpx.AsyncClient) -> None:
    """As unknown fields of bodies are."""
    made = (await client.post("/v1/conversations", json={})).json()
    reply = await client.get(f"/v1/conversations/{made['id']}/items?utm=1&%00=%ff&limit=1")
    assert reply.status_code == 200


@pytest.mark.parametrize("cursor", ["", "5", "5.", "5.0000000g", "1000000000.00000000", "5.00000000 ", "é"])
async def test_a_wrong_event_id_is_named(client: httpx.AsyncClient, cursor: str) -> None:
    """Whatever is not the id of an event, streamed or not."""
    for query in ("", "?stream=true"):
        reply = await client.get(RESPONSE + query, headers={"last-event-id": cursor.encode()})
        assert (reply.status_code, error_of(reply.content).param) == (400, "Last-Event-ID")


async def test_strangers_are_refused_first(client: httpx.AsyncClient) -> None:
    """Without a key, nothing is said of what else is wrong."""
    del client.headers["authorization"]
    for path in (ITEMS + "?limit=1&limit=2", RESPONSE + "?stream=yes"):
        reply = await client.get(path, headers={"last-event-id": "x"})
        assert (reply.status_code, error_of(reply.content).code) == (401, "invalid_api_key")
