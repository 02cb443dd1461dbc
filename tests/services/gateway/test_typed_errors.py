"""The official client's typed errors, for every row of the bad-input table that reaches HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from cluster.errors import (
    ChannelError,
    ClusterError,
    ContextLengthExceededError,
    ConversationBusyError,
    DeadlineExceededError,
    GenerationFailedError,
    InvalidRequestError,
    NoReplicaError,
    NotFoundError,
    OverloadedError,
    QueueFullError,
    StoreUnavailableError,
)
from cluster.protocol import FinishReason
from services.gateway.app import create_app
from services.tenants.memory_keys import MemoryKeyStore
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import MODEL, connected, make_deps

ASK: list[Any] = [{"role": "user", "content": "hi"}]
REFUSALS = [
    (InvalidRequestError("no", param="stop"), openai.BadRequestError, "invalid_request", None),
    (
        ContextLengthExceededError(prompt_tokens=9000, max_tokens=5, context_length=8192),
        openai.BadRequestError,
        "context_length_exceeded",
        None,
    ),
    (NotFoundError("conversation", "conv_x"), openai.NotFoundError, "not_found", None),
    (ConversationBusyError("resp_1"), openai.ConflictError, "conversation_busy", None),
    (OverloadedError("full", retry_after_s=1.2), openai.RateLimitError, "overloaded", "2"),
    (QueueFullError(queue="batch", max_queued=9, retry_after_s=30), openai.RateLimitError, "queue_full", "30"),
    (NoReplicaError("none", retry_after_s=0.1), openai.InternalServerError, "no_replica", "1"),
    (StoreUnavailableError("away", retry_after_s=3), openai.InternalServerError, "history_unavailable", "3"),
    (DeadlineExceededError("late"), openai.InternalServerError, "deadline_exceeded", None),
    (ChannelError("10.0.0.7:9 is gone"), openai.InternalServerError, "internal_error", None),
    (RuntimeError("secret"), openai.InternalServerError, "internal_error", None),
]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: type(case[0]).__name__)
async def test_refused_turns(
    ai: openai.AsyncOpenAI,
    turns: FakeTurns,
    case: tuple[Exception, type[openai.APIStatusError], str, str | None],
    is_stream: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """What is raised before a turn starts is the same typed error for plain and streamed requests."""
    turns.refusal, expected, code, retry_after = case
    with pytest.raises(expected) as caught:
        await ai.responses.create(model=MODEL, input="hi", stream=is_stream)
    assert caught.value.code == code
    assert caught.value.response.headers.get("retry-after") == retry_after
    assert caught.value.response.headers["x-request-id"].startswith("req_")


async def test_both_numbers_of_a_full_context(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """The message says how much was asked for and how much there is."""
    turns.refusal = ContextLengthExceededError(prompt_tokens=9000, max_tokens=5, context_length=8192)
    with pytest.raises(openai.BadRequestError, match=r"8192.*9005"):
        await ai.chat.completions.create(model=MODEL, messages=ASK)


@pytest.mark.parametrize("error", [ChannelError("10.0.0.7:9 is gone"), RuntimeError("10.0.0.7:9 is gone")])
async def test_internals_stay_inside(ai: openai.AsyncOpenAI, turns: FakeTurns, error: Exception) -> None:
    """Errors of ours do not name hosts to strangers."""
    turns.refusal = error
    with pytest.raises(openai.InternalServerError) as caught:
        await ai.chat.completions.create(model=MODEL, messages=ASK)
    assert "10.0.0.7" not in str(caught.value)
    assert caught.value.status_code == 500


async def test_failed_plain_turn(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """A turn that failed after it began, but before anything was sent, is an HTTP error."""
    turns.reason, turns.error = FinishReason.FAILED, (GenerationFailedError.code, "The logits hold NaN.")
    with pytest.raises(openai.InternalServerError, match="NaN") as caught:
        await ai.chat.completions.create(model=MODEL, messages=ASK)
    assert caught.value.code == "generation_failed"


@pytest.mark.parametrize("code", [StoreUnavailableError.code, OverloadedError.code])
async def test_failed_plain_turn_that_may_be_retried(client: httpx.AsyncClient, turns: FakeTurns, code: str) -> None:
    """A failure that may pass keeps its Retry-After."""
    turns.reason, turns.error = FinishReason.FAILED, (code, "Later.")
    reply = await client.post("/v1/responses", json={"model": MODEL, "input": "hi"})
    assert reply.headers["retry-after"] == "1"
    assert reply.status_code in (429, 503)


async def test_failed_chat_stream(ai: openai.AsyncOpenAI, turns: FakeTurns) -> None:
    """A failed chat stream ends with an error event, which the client raises after the text that came."""
    turns.reason, turns.error = FinishReason.FAILED, (GenerationFailedError.code, "The logits hold NaN.")
    stream = await ai.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    texts = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
    with pytest.raises(openai.APIError, match="NaN") as caught:
        await anext(stream)
    assert texts == ["", "Hello", " 你好"]
    assert caught.value.code == "generation_failed"


@pytest.mark.parametrize("code", ["", "channel_unreachable", "of_another_release"])
async def test_failures_without_a_public_reason(client: httpx.AsyncClient, turns: FakeTurns, code: str) -> None:
    """A failure that is ours keeps its code, if it has one, and loses its message."""
    turns.reason, turns.error = FinishReason.FAILED, (code, "10.0.0.7:9 is gone")
    reply = await client.post("/v1/responses", json={"model": MODEL, "input": "hi"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, code or ClusterError.code)
    assert "10.0.0.7" not in reply.text


async def test_broken_chat_stream(client: httpx.AsyncClient, turns: FakeTurns) -> None:
    """An unexpected error after the first byte is the stream's last event, without [DONE]."""
    turns.explosion = RuntimeError("secret")
    reply = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK, "stream": True})
    last = reply.text.strip().split("\n\n")[-1]
    assert last.startswith('data: {"error":')
    assert "secret" not in reply.text


@pytest.mark.parametrize("key", ["sk-wrong", "sk-", "x" * 10_000])
async def test_wrong_keys(url: str, key: str) -> None:
    """A wrong or malformed key is an AuthenticationError."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as ai:
        with pytest.raises(openai.AuthenticationError) as caught:
            await ai.chat.completions.create(model=MODEL, messages=ASK)
    assert caught.value.code == "invalid_api_key"


async def test_revoked_key(ai: openai.AsyncOpenAI, keys: MemoryKeyStore) -> None:
    """A revoked key is an AuthenticationError."""
    await keys.revoke((await keys.list())[0].id)
    with pytest.raises(openai.AuthenticationError):
        await ai.models.list()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Basic abc"},
        {"authorization": "Bearer"},
        {"authorization": b"Bearer \xff"},
    ],
)
async def test_malformed_authorization(client: httpx.AsyncClient, headers: dict[str, Any]) -> None:
    """Without a proper bearer key the answer is 401, before the body is looked at."""
    del client.headers["authorization"]
    reply = await client.post("/v1/chat/completions", content=b"not json", headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_keys_cannot_be_looked_up() -> None:
    """While neither cache nor store knows the keys, the answer is 503 with Retry-After."""

    class Away:
        async def authenticate(self, bearer: str | None) -> Any:
            raise StoreUnavailableError("The keys' store does not answer.", retry_after_s=2)

    async with connected(create_app(make_deps(authenticator=Away())), "sk-x") as client:
        reply = await client.get("/v1/models")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")


async def test_unknown_model_in_a_chat(ai: openai.AsyncOpenAI) -> None:
    """A model that is not served is named in a 404."""
    with pytest.raises(openai.NotFoundError, match="gpt-9") as caught:
        await ai.chat.completions.create(model="gpt-9", messages=ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_unknown_route(ai: openai.AsyncOpenAI) -> None:
    """A route we do not have is named in a 404."""
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings"):
        await ai.embeddings.create(model=MODEL, input="hi")


async def test_wrong_method(client: httpx.AsyncClient) -> None:
    """A wrong method is a 405 that says what is allowed, in the usual body."""
    reply = await client.get("/v1/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json()["error"]["code"] == "method_not_allowed"
