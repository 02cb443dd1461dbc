"""What deleting does to responses, items and conversations, by the official client over real turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.settings import ServedModel
from tests.support.erasing import an_eraser
from tests.support.gateway import MODEL, TENANT, make_deps, serving
from tests.support.turn_kit import TurnKit, until

TINY = Path(__file__).parents[2] / "parity" / "data" / "tiny"
LONG = "A question of more than a page, which is why it goes on and on, and then on for a little more."


@pytest.fixture
def kit() -> TurnKit:
    """Turns over two pretended replicas."""
    model = ServedModel(name=MODEL, context_length=512, fingerprint="fp_1")
    return TurnKit(ChatGLM3Tokenizer.from_pretrained(TINY), ScriptedBackend([5] * 40), model=model)


@pytest.fixture
async def url(kit: TurnKit, keys: MemoryKeyStore) -> AsyncIterator[str]:
    """A real server over them."""
    eraser = an_eraser(kit.store, kit.backend, queue=kit.queue, due=kit.due)
    deps = make_deps(turns=kit.service, store=kit.store, eraser=eraser, authenticator=Authenticator(keys))
    await kit.service.start()
    async with serving(create_app(deps)) as url:
        yield url
    await kit.service.stop()


async def ask(ai: openai.AsyncOpenAI, **options: Any) -> Response:
    """A stored turn whose prompt is longer than a page."""
    made: Response = await ai.responses.create(model=MODEL, input=LONG, **options)
    return made


async def deleted(ai: openai.AsyncOpenAI, response: str) -> Any:
    """What a deletion says; the official client throws it away."""
    raw = await ai.responses.with_raw_response.delete(response)
    return raw.http_response.json()


def cached_tokens(response: Response) -> int:
    """What a turn found."""
    assert response.usage is not None
    return response.usage.input_tokens_details.cached_tokens


async def test_a_deleted_response_is_gone_from_the_store_and_all_caches(ai: openai.AsyncOpenAI) -> None:
    """The deletion counts its pages; the same words find nothing."""
    made = await ask(ai)
    told = await deleted(ai, made.id)
    assert told["erased"].pop("kv_pages") > 0
    nothing_missed = {"kv_pages_in_use": 0, "replicas": 2, "replicas_missed": 0}
    assert told == {"id": made.id, "object": "response", "deleted": True, "erased": nothing_missed}
    for call in (ai.responses.retrieve, ai.responses.delete):
        with pytest.raises(openai.NotFoundError, match=made.id):
            await call(made.id)
    assert cached_tokens(await ask(ai)) == 0


async def test_replicas_that_did_not_hear_are_counted(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """The deletion stands all the same."""
    made = await ask(ai)
    kit.backend.unreachable.add("replica-b")
    told = (await deleted(ai, made.id))["erased"]
    assert (told["replicas"], told["replicas_missed"]) == (1, 1)


async def test_a_deleted_response_leaves_its_conversation_its_items(ai: openai.AsyncOpenAI) -> None:
    """Only what is the response's own goes."""
    conversation = (await ai.conversations.create()).id
    made = await ask(ai, conversation=conversation)
    assert (await deleted(ai, made.id))["deleted"]
    assert len([item async for item in ai.conversations.items.list(conversation)]) == 2


async def test_a_deleted_item_is_in_no_cache(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """The conversation is answered as it was."""
    made = await ai.conversations.create()
    await ask(ai, conversation=made.id)
    assert kit.backend._kept
    first = (await ai.conversations.items.list(made.id)).data[0]
    assert first.id is not None
    assert await ai.conversations.items.delete(first.id, conversation_id=made.id) == made
    assert not kit.backend._kept


async def test_a_response_deleted_while_it_waits_never_starts(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """Nothing is left in the queue."""
    made = await ask(ai, background=True)
    assert (made.status, (await kit.queue.lag()).waiting) == ("queued", 1)
    await ai.responses.delete(made.id)
    assert (await kit.queue.lag()).waiting == 0
    assert kit.due._turns.times == {}


async def test_a_stream_of_a_deleted_response_ends_with_an_error(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """Its code is that of asking for it afterwards, and it is no event of the response."""
    kit.backend.gate.clear()
    async with await ai.responses.create(model=MODEL, input=LONG, stream=True) as stream:
        created = await anext(aiter(stream))
        assert created.type == "response.created"
        await ai.responses.delete(created.response.id)
        last = [event async for event in stream][-1]
    assert (last.type, getattr(last, "code", "")) == ("error", "not_found")


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_request_whose_response_is_deleted_is_answered_404(
    ai: openai.AsyncOpenAI, kit: TurnKit, *, is_whole: bool
) -> None:
    """As soon as its owner hears of it, by whatever was deleted."""
    conversation = (await ai.conversations.create()).id
    kit.backend.gate.clear()
    asking = asyncio.create_task(ask(ai, conversation=conversation))
    await until(lambda: kit.backend.requests)
    (turn,) = await kit.store.pointed_turns(TENANT, conversation)
    await (ai.conversations.delete(conversation) if is_whole else ai.responses.delete(turn))
    with pytest.raises(openai.NotFoundError, match=turn):
        await asking
