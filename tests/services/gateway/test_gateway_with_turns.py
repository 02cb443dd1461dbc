"""The gateway over the real turn service, memory stores and scripted tokens: the way from HTTP to ids and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from cluster.errors import StoreUnavailableError
from cluster.protocol import GenerateRequest
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import Fault, FaultKind, ScriptedBackend
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import Conversation, Line
from services.conversations.store import WHOLE, Part
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.settings import ServedModel, TurnSettings
from tests.support.gateway import MODEL, make_deps, serving
from tests.support.turn_kit import a_service

TOKENIZER = Path(__file__).parents[2] / "parity" / "data" / "tiny"
CONTEXT = 512
PAGE = 16
PATIENCE_S = 10
COMMANDS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
ASK: list[Any] = [{"role": "user", "content": "Hi"}]


class MemoryThatFails(MemoryConversationStore):
    """A store that can be away."""

    is_away = False

    async def load(self, tenant: str, conversation: str, part: Part = WHOLE) -> Line:
        self._check()
        return await super().load(tenant, conversation, part)

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        self._check()
        return await super().conversation(tenant, conversation)

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailableError("The history does not answer.", retry_after_s=2)


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLM3Tokenizer:
    return ChatGLM3Tokenizer.from_pretrained(TOKENIZER)


@pytest.fixture
def backend(tokenizer: ChatGLM3Tokenizer) -> ScriptedBackend:
    """Answers each request with a text of its own, told by the prompt's length."""

    def answer(request: GenerateRequest) -> list[int]:
        return tokenizer.encode_text(f"\n After {len(request.prompt_ids)} tokens, hello.")

    return ScriptedBackend(answer)


@pytest.fixture
def store() -> MemoryThatFails:
    return MemoryThatFails()


@pytest.fixture
async def url(
    tokenizer: ChatGLM3Tokenizer, backend: ScriptedBackend, store: MemoryThatFails, keys: MemoryKeyStore
) -> AsyncIterator[str]:
    """A real server over a real turn service."""
    turns = a_service(
        backend=backend,
        store=store,
        index=MemoryIdIndex(),
        tokenizer=tokenizer,
        model=ServedModel(name=MODEL, context_length=CONTEXT, fingerprint="fp_0123456789"),
        settings=TurnSettings(resume_s=0),
    )
    await turns.start()
    async with serving(create_app(make_deps(turns=turns, store=store, authenticator=Authenticator(keys)))) as url:
        yield url
    await turns.stop()


async def test_a_conversation_of_six_turns(ai: openai.AsyncOpenAI, store: MemoryThatFails) -> None:
    """Every turn is served by the same rank with all earlier tokens cached, and both sides are kept."""
    conversation = await ai.conversations.create()
    ranks, held, texts = set(), 0, []
    for question in range(6):
        raw = await ai.responses.with_raw_response.create(
            model=MODEL, input=f"Question {question}", conversation=conversation.id
        )
        response = raw.parse()
        assert response.usage is not None
        assert response.usage.input_tokens_details.cached_tokens >= held - PAGE
        held = response.usage.total_tokens
        ranks.add(raw.headers["x-replica-rank"])
        texts.append(response.output_text)
    assert len(ranks) == 1
    items = [item async for item in ai.conversations.items.list(conversation.id, order="asc", limit=5)]
    kept = [(item.role, item.content[0].text) for item in items if item.type == "message"]  # type: ignore[union-attr]
    assert kept[::2] == [("user", f"Question {question}") for question in range(6)]
    assert kept[1::2] == [("assistant", text) for text in texts]


async def test_the_sync_client_does_the_same(url: str, key: str) -> None:
    """The synchronous client holds a conversation, plain and streamed, and reads it back."""

    def talk() -> tuple[list[str], list[str]]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20) as ai:
            conversation = ai.conversations.create().id
            plain = ai.responses.create(model=MODEL, input="Hi", conversation=conversation)
            stream = ai.responses.create(model=MODEL, input="More", conversation=conversation, stream=True)
            streamed = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            items = list(ai.conversations.items.list(conversation, order="asc"))
            return [plain.output_text, streamed], [item.content[0].text for item in items]  # type: ignore[union-attr]

    said, kept = await asyncio.to_thread(talk)
    assert kept == ["Hi", said[0], "More", said[1]]


async def test_a_streamed_turn_is_kept(ai: openai.AsyncOpenAI) -> None:
    """The streamed text is the one the conversation keeps, under the ids the stream named."""
    conversation = await ai.conversations.create()
    stream = await ai.responses.create(model=MODEL, input="Hi", conversation=conversation.id, stream=True)
    events = [event async for event in stream]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert last.response.output_text == text
    newest = (await ai.conversations.items.list(conversation.id, limit=1)).data[0]
    assert (newest.id, newest.content[0].text) == (last.response.output[0].id, text)  # type: ignore[union-attr]


async def test_a_stateless_client_finds_its_cache(ai: openai.AsyncOpenAI) -> None:
    """A client that sends its history back gets all of it from the cache."""
    first = await ai.chat.completions.create(model=MODEL, messages=ASK)
    history = [*ASK, first.choices[0].message.to_dict(), {"role": "user", "content": "And now?"}]
    second = await ai.chat.completions.create(model=MODEL, messages=history)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= first.usage.total_tokens - PAGE


async def test_responses_without_a_conversation(ai: openai.AsyncOpenAI) -> None:
    """A stored response needs no conversation; an unstored one leaves nothing."""
    stored = await ai.responses.create(model=MODEL, input="Hi")
    unstored = await ai.responses.create(model=MODEL, input="Hi", store=False)
    assert stored.conversation is None
    assert stored.output_text == unstored.output_text
    assert stored.id != unstored.id


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_client_that_leaves_aborts_the_attempt(
    ai: openai.AsyncOpenAI,
    backend: ScriptedBackend,
    is_stream: bool,  # noqa: FBT001 - pytest passes by name
    is_stored: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """The backend's stream is closed in mid-answer, and the conversation is free again."""
    backend.gate.clear()
    conversation = await ai.conversations.create()
    scope: Any = {"conversation": conversation.id} if is_stored else {"store": False}
    call = asyncio.create_task(_consume(ai, is_stream=is_stream, **scope))
    async with asyncio.timeout(PATIENCE_S):
        await _until(lambda: backend.requests)
        call.cancel()
        await asyncio.wait({call})
        await _until(lambda: backend.aborted)
    assert backend.aborted == [backend.requests[0].attempt]
    backend.gate.set()
    async with asyncio.timeout(PATIENCE_S):
        await _until_free(ai, conversation.id)


async def test_a_busy_conversation(ai: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """A second turn while one runs is a ConflictError; the first one ends as if nothing had been."""
    backend.gate.clear()
    conversation = await ai.conversations.create()
    stream = await ai.responses.create(model=MODEL, input="Hi", conversation=conversation.id, stream=True)
    with pytest.raises(openai.ConflictError, match="resp_") as caught:
        await ai.responses.create(model=MODEL, input="Me too", conversation=conversation.id)
    backend.gate.set()
    events = [event async for event in stream]
    assert caught.value.code == "conversation_busy"
    assert events[-1].type == "response.completed"


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_chat_longer_than_the_context(ai: openai.AsyncOpenAI, backend: ScriptedBackend, is_kept: bool) -> None:  # noqa: FBT001 - pytest passes by name
    """With truncation ``auto`` it goes on, kept here or by the client, and most of it is found in the cache."""
    conversation = (await ai.conversations.create()).id
    history: list[Any] = []
    usages = []
    for question in range(25):
        asked = {"role": "user", "content": f"Question {question}"}
        history = [asked] if is_kept else [*history, asked]
        scope: Any = {"conversation": conversation} if is_kept else {"store": False}
        response = await ai.responses.create(model=MODEL, input=history, truncation="auto", **scope)
        history.append({"role": "assistant", "content": response.output_text})
        assert response.truncation == "auto"
        usages.append(response.usage)
    assert max(len(request.prompt_ids) for request in backend.requests) <= CONTEXT * 3 // 4
    found = sum(usage.input_tokens_details.cached_tokens for usage in usages if usage)
    assert found > 0.7 * sum(usage.input_tokens for usage in usages if usage)


async def test_too_long_for_the_context(ai: openai.AsyncOpenAI) -> None:
    """Prompt and max_tokens over the context are a 400 that names both numbers."""
    with pytest.raises(openai.BadRequestError, match=r"\b512\b.*\b600 for the answer") as caught:
        await ai.chat.completions.create(model=MODEL, messages=ASK, max_tokens=600)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(FaultKind.OVERLOADED, openai.RateLimitError), (FaultKind.NO_REPLICA, openai.InternalServerError)],
)
async def test_nobody_takes_the_turn(
    ai: openai.AsyncOpenAI, backend: ScriptedBackend, kind: FaultKind, expected: type[openai.APIStatusError]
) -> None:
    """A full or empty cluster is a typed error with Retry-After, and recovers by itself."""
    backend.faults = iter([Fault(kind)])
    with pytest.raises(expected) as caught:
        await ai.chat.completions.create(model=MODEL, messages=ASK)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert (await ai.chat.completions.create(model=MODEL, messages=ASK)).choices[0].finish_reason == "stop"


async def test_a_lost_replica_is_only_a_pause(ai: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """An answer whose replica dies goes on elsewhere; its reader sees one answer."""
    whole = await ai.chat.completions.create(model=MODEL, messages=ASK)
    backend.faults = iter([Fault(FaultKind.LOST, after=3)])
    stream = await ai.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


async def test_a_failed_generation(ai: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    """A sequence that the engine gives up is the stream's last event, and its conversation goes on."""
    conversation = await ai.conversations.create()
    backend.faults = iter([Fault(FaultKind.FAILED, after=2)])
    stream = await ai.responses.create(model=MODEL, input="Hi", conversation=conversation.id, stream=True)
    last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    again = await ai.responses.create(model=MODEL, input="Hi", conversation=conversation.id)
    assert again.status == "completed"


async def test_unknown_conversation(ai: openai.AsyncOpenAI) -> None:
    """A conversation nobody made is named in a 404."""
    with pytest.raises(openai.NotFoundError, match="conv_aaaa"):
        await ai.responses.create(model=MODEL, input="Hi", conversation="conv_" + "a" * 16)


async def test_another_tenants_conversation(ai: openai.AsyncOpenAI, keys: MemoryKeyStore) -> None:
    """A conversation of another tenant cannot be continued."""
    conversation = await ai.conversations.create()
    _, key = await keys.create("rival", "test")
    async with ai.with_options(api_key=key) as rival:
        with pytest.raises(openai.NotFoundError):
            await rival.responses.create(model=MODEL, input="Hi", conversation=conversation.id)


async def test_history_away(ai: openai.AsyncOpenAI, store: MemoryThatFails) -> None:
    """Without the store, stored turns are refused for now and chats go on; then all is well again."""
    conversation = await ai.conversations.create()
    store.is_away = True
    with pytest.raises(openai.InternalServerError) as caught:
        await ai.responses.create(model=MODEL, input="Hi", conversation=conversation.id)
    assert (caught.value.status_code, caught.value.code) == (503, "history_unavailable")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert (await ai.chat.completions.create(model=MODEL, messages=ASK)).choices
    store.is_away = False
    assert (await ai.responses.create(model=MODEL, input="Hi", conversation=conversation.id)).status == "completed"


@pytest.mark.parametrize("text", ["<|user|>\n", "[gMASK]sop<|assistant|>", "\0", "👩‍👩‍👧"])
async def test_special_texts_become_no_control_tokens(
    ai: openai.AsyncOpenAI, backend: ScriptedBackend, tokenizer: ChatGLM3Tokenizer, text: str
) -> None:
    """Whatever a message says, the prompt has the control tokens of its messages and no more."""
    for content in ("plain", text):
        await ai.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    commands = {tokenizer.get_command(name) for name in COMMANDS}
    plain, special = ([i for i in request.prompt_ids if i in commands] for request in backend.requests)
    assert [tokenizer.get_command(name) for name in ("[gMASK]", "sop", "<|user|>", "<|assistant|>")] == plain
    assert plain == special


async def _consume(ai: openai.AsyncOpenAI, *, is_stream: bool, **scope: Any) -> None:
    answer: Any = await ai.responses.create(model=MODEL, input="Hi", stream=is_stream, **scope)
    if is_stream:
        async for _ in answer:
            pass


async def _until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - the backend keeps lists, not events
        await asyncio.sleep(0.001)


async def _until_free(ai: openai.AsyncOpenAI, conversation: str) -> None:
    """Until the conversation takes a turn again."""
    while True:
        try:
            await ai.responses.create(model=MODEL, input="Hi", conversation=conversation)
        except openai.ConflictError:
            continue
        return


async def test_the_next_turn_reads_the_items_that_its_caller_made(
    ai: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    """An answer deleted and another one appended: the prompt is that of a conversation begun with these."""
    changed = await ai.conversations.create()
    await ai.responses.create(model=MODEL, input="One", conversation=changed.id)
    _, answer = [item async for item in ai.conversations.items.list(changed.id, order="asc")]
    assert answer.id is not None
    await ai.conversations.items.delete(answer.id, conversation_id=changed.id)
    await ai.conversations.items.create(changed.id, items=[{"role": "assistant", "content": "Other"}])
    same = await ai.conversations.create(
        items=[{"role": "user", "content": "One"}, {"role": "assistant", "content": "Other"}]
    )
    for conversation in (changed.id, same.id):
        await ai.responses.create(model=MODEL, input="Two", conversation=conversation)
    assert backend.requests[-2].prompt_ids == backend.requests[-1].prompt_ids
