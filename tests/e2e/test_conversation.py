"""A person chats over HTTP with the official client: streaming, several turns, warm caches, exact answers."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response, ResponseUsage

from cluster.demo import CHECKPOINT
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.conversations.records import Item
from services.conversations.redis_store import RedisConversationStore
from services.turns.prompt import prompt_ids, stored_messages
from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.cold_run import ColdModel
from tests.support.pasts import fed_tokens
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

QUESTIONS = [
    "Hello! Who are you?",
    "My name is Anna and I live in Lisbon.",
    "今天天气怎么样？",
    "Как дела?",
    "What is 2 + 2?",
    "And what was my name?",
]
TOKENS = 40
PAGE = 16
NEAR_TIE = 1e-4  # logits closer than this may be ordered either way by another batch


def talk(cluster: ClusterProcess, **options: Any) -> tuple[str, list[tuple[Response, str]]]:
    """Six turns in one conversation; each response with the rank that served it."""
    client = cluster.client()
    conversation = client.conversations.create().id
    turns = []
    for question in QUESTIONS:
        raw = client.responses.with_raw_response.create(
            model=MODEL, conversation=conversation, input=question, max_output_tokens=TOKENS, **options
        )
        turns.append((raw.parse(), raw.headers["x-replica-rank"]))
    return conversation, turns


def stored_items(cluster: ClusterProcess, conversation: str) -> list[Item]:
    """The conversation as the store holds it, sampled ids included."""

    async def load() -> list[Item]:
        store = RedisConversationStore(cluster.redis_url)
        try:
            return (await store.load("default", conversation)).items
        finally:
            await store.close()

    return asyncio.run(load())


def test_a_conversation_stays_on_one_replica_and_reuses_its_cache(cluster: ClusterProcess) -> None:
    """From the second turn on, all earlier tokens but at most one page come from the cache of the same rank."""
    _, turns = talk(cluster, temperature=0)
    held = 0
    for response, _ in turns:
        assert response.usage is not None
        assert response.usage.input_tokens_details.cached_tokens >= held - PAGE
        held = response.usage.input_tokens + response.usage.output_tokens
    assert len({rank for _, rank in turns}) == 1
    assert "Anna" in turns[-1][0].output_text


def named_talk(client: OpenAI, name: str) -> list[ResponseUsage]:
    """Six turns of a conversation that nobody else has; each turn's past must have come from the cache."""
    usages, fed = [], None
    conversation = client.conversations.create().id
    for question in QUESTIONS:
        response = client.responses.create(
            model=MODEL, conversation=conversation, input=f"{name}: {question}", max_output_tokens=TOKENS
        )
        assert response.usage is not None
        if fed is not None:
            assert response.usage.input_tokens_details.cached_tokens == fed // PAGE * PAGE
        fed = fed_tokens(response)
        usages.append(response.usage)
    return usages


def test_every_full_page_of_the_past_is_served_from_the_cache(cluster: ClusterProcess) -> None:
    """Exactly, in several conversations at once, and it is told of their tenant."""
    made = run_command("key", "create", "rememberer", state_dir=cluster.state_dir)
    client = cluster.client().with_options(api_key=made.stdout.strip())
    with ThreadPoolExecutor(4) as pool:
        talks = list(pool.map(lambda i: named_talk(client, f"Person {i}"), range(4)))
    usages = [usage for talk in talks for usage in talk]
    found = sum(usage.input_tokens_details.cached_tokens for usage in usages)
    whole = sum((usage.input_tokens - 1) // PAGE * PAGE for usage in usages)
    figures = {
        "hit_tokens_total": found,
        "miss_tokens_total": whole - found,
        "evicted_pages_total": 0,
        "active_pages": 0,
    }
    expected = {f"chatglm_tenant_{name}{{tenant=rememberer}}": value for name, value in figures.items()}
    wait_until(lambda: expected.items() <= cluster.metrics().items(), timeout_s=5, what="the tenant's figures")


def test_cached_answers_equal_cold_ones(cluster: ClusterProcess) -> None:
    """Greedy ids of each turn are those of a model that computes the same prompt from nothing, up to near-ties."""
    conversation, _ = talk(cluster, temperature=0)
    tokenizer, model = ChatGLM3Tokenizer.from_pretrained(CHECKPOINT), ColdModel(CHECKPOINT)
    items = stored_items(cluster, conversation)
    assert len(items) == 2 * len(QUESTIONS)
    for turn in range(len(QUESTIONS)):
        history, question, answer = items[: 2 * turn], items[2 * turn], items[2 * turn + 1]
        prompt = prompt_ids(tokenizer, stored_messages(None, history, [question]))
        cold = model.greedy(prompt, tokens=TOKENS, stop_ids=tokenizer.stop_ids)
        assert answer.ids is not None
        same = next((i for i, (a, b) in enumerate(zip(cold, answer.ids, strict=False)) if a != b), len(answer.ids))
        assert cold == answer.ids or model.margin(prompt + cold[:same]) < NEAR_TIE


def test_the_same_seed_gives_the_same_answer(cluster: ClusterProcess) -> None:
    """Sampled answers repeat with their seed, on whichever replica they run."""
    client = cluster.client()
    texts = {
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me something."}],
            seed=11,
            max_tokens=20,
            extra_body={"prompt_cache_key": key},
        )
        .choices[0]
        .message.content
        for key in ("a", "b", "c", "d")
    }
    assert len(texts) == 1


def test_a_stream_says_what_the_whole_answer_says(cluster: ClusterProcess) -> None:
    """Deltas joined equal the plain answer, and usage comes last when asked for."""
    client = cluster.client()
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello!"}],
        "temperature": 0,
        "max_tokens": 24,
    }
    plain = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


async def test_the_asynchronous_client_streams_typed_response_events(cluster: ClusterProcess) -> None:
    """Created first, completed last, numbers without gaps, text equal to its deltas."""
    async with AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key=cluster.key, max_retries=0) as client:
        stream = await client.responses.create(model=MODEL, input="Hi", max_output_tokens=16, stream=True)
        events = [event async for event in stream]
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == events[-1].response.output_text


def test_a_stateless_client_that_returns_the_history_finds_its_cache(cluster: ClusterProcess) -> None:
    """An answer sent back unchanged is taken for the ids that were sampled, through any gateway."""
    client = cluster.client()
    messages: list[Any] = [{"role": "user", "content": "Tell me about the weather in Lisbon, and about boats."}]
    held = 0
    for question in ("Go on.", "And then?", "Thank you."):
        answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=TOKENS)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert (answer.usage.prompt_tokens_details.cached_tokens or 0) >= held - PAGE
        held = answer.usage.prompt_tokens + answer.usage.completion_tokens
        messages += [{"role": "assistant", "content": answer.choices[0].message.content}]
        messages += [{"role": "user", "content": question}]


def test_another_tenant_sees_neither_conversation_nor_cache(cluster: ClusterProcess) -> None:
    """A foreign id is a 404, and an equal prompt computed for somebody else is not cached."""
    conversation, _ = talk(cluster)
    made = run_command("key", "create", "other-tenant", state_dir=cluster.state_dir)
    other = cluster.client().with_options(api_key=made.stdout.strip())
    with pytest.raises(NotFoundError):
        other.conversations.retrieve(conversation)
    prompt = "A long question that both tenants ask in the very same words, longer than two pages of the cache."
    request: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
    for _ in range(2):
        cluster.client().chat.completions.create(**request)
    usage = other.chat.completions.create(**request).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_a_key_works_until_it_is_revoked(cluster: ClusterProcess) -> None:
    """Create, use, rotate and revoke on a running cluster; each takes effect on every gateway."""

    def status(key: str) -> set[int]:
        headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
        return {httpx.get(f"{cluster.url}/v1/models", headers=headers).status_code for _ in range(6)}

    first = run_command("key", "create", "acme", state_dir=cluster.state_dir).stdout.strip()
    wait_until(lambda: status(first) == {200}, timeout_s=4, what="a new key works everywhere")
    second = run_command("key", "rotate", first[3:15], state_dir=cluster.state_dir).stdout.strip()
    wait_until(lambda: status(first) == {401}, timeout_s=4, what="the rotated key is refused everywhere")
    wait_until(lambda: status(second) == {200}, timeout_s=4, what="its successor works everywhere")
    run_command("key", "revoke", second[3:15], state_dir=cluster.state_dir)
    wait_until(lambda: status(second) == {401}, timeout_s=4, what="a revoked key is refused everywhere")
    assert "acme" in run_command("key", "list", state_dir=cluster.state_dir).stdout


def test_too_long_a_request_names_both_numbers(cluster: ClusterProcess) -> None:
    """Prompt and max_tokens over the context are refused before anything is computed."""
    with pytest.raises(BadRequestError) as refused:
        cluster.client().chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=5000
        )
    assert refused.value.code == "context_length_exceeded"
    assert "2048" in str(refused.value)
    assert "5000" in str(refused.value)


def test_the_terminal_client_holds_a_conversation(cluster: ClusterProcess) -> None:
    """`chatglm-cluster chat` streams answers and can be continued by its conversation id."""
    done = run_command("chat", state_dir=cluster.state_dir, text="Hello\nAgain\n\n")
    assert done.returncode == 0, done.stderr
    conversation = next(word for word in done.stderr.split() if word.startswith("conv_"))
    items = cluster.client().conversations.items.list(conversation, limit=10)
    assert len(items.data) == 4
