"""Stored responses through the official client, over real turns: background, retrieval, resuming, cancelling, deletion."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import Fault, FaultKind, ScriptedBackend
from services.gateway.app import create_app
from services.tenants.authenticator import Authenticator
from services.tenants.memory_keys import MemoryKeyStore
from services.turns.owner import Ending
from tests.fakes.doomed import Doomed
from tests.support.gateway import MODEL, TENANT, make_deps, serving
from tests.support.kills import World, bury
from tests.support.turn_kit import QUICK, TINY, TurnKit, collect, until

TEXT = "Hello there. How are you?"
TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
LIVE = replace(QUICK, look_s=0.001, resume_s=60.0)
OPENING = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
CLOSING = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
NOTED = 9  # calls of a process in mid-answer, with a part of it in the journal
UNKNOWN = "resp_" + "a" * 32


@pytest.fixture
async def kit() -> AsyncIterator[TurnKit]:
    """The gateway's own turns; ``kit.another`` makes those of other processes."""
    model = replace(TurnKit(TOKENIZER, ScriptedBackend([])).model, name=MODEL)
    kit = TurnKit(TOKENIZER, ScriptedBackend(TOKENIZER.encode_text("\n " + TEXT), frame=2), settings=LIVE, model=model)
    await kit.service.start()
    yield kit
    kit.backend.gate.set()
    await kit.service.stop()


@pytest.fixture
async def url(kit: TurnKit, keys: MemoryKeyStore) -> AsyncIterator[str]:
    """A real server over them."""
    deps = make_deps(turns=kit.service, store=kit.store, authenticator=Authenticator(keys))
    async with serving(create_app(deps)) as url:
        yield url


@pytest.fixture
async def browser(url: str, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that speaks plain HTTP."""
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20) as client:
        yield client


async def carried_out(kit: TurnKit, response: str) -> None:
    other = kit.another()
    await other.start()
    await other.carry_out(TENANT, response)
    await other.stop()


async def events_of(browser: httpx.AsyncClient, path: str, **headers: str) -> list[tuple[str, dict[str, Any]]]:
    """The ids and bodies of a stream."""
    answer = await browser.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    blocks = [dict(line.split(": ", 1) for line in b.splitlines()) for b in answer.text.split("\n\n") if "data" in b]
    return [(block.get("id", ""), json.loads(block["data"])) for block in blocks]


def middle(types: list[str]) -> list[str]:
    assert set(types) == {"response.output_text.delta"}
    return types


async def test_a_response_in_the_background(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """Queued at once, completed when somebody has carried it out."""
    queued = await ai.responses.create(model=MODEL, input="Hi", background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    assert (await ai.responses.retrieve(queued.id)).to_dict() == queued.to_dict()
    await carried_out(kit, queued.id)
    done = await ai.responses.retrieve(queued.id)
    assert (done.status, done.output_text, done.background) == ("completed", TEXT, True)


async def test_a_response_in_the_background_as_a_stream(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """Every event in its order and with its number: created, queued, in progress, the answer, completed."""
    stream = await ai.responses.create(model=MODEL, input="Hi", background=True, stream=True)
    seen = [await anext(aiter(stream)) for _ in range(2)]
    assert [(event.type, event.response.status) for event in seen] == [  # type: ignore[union-attr]
        ("response.created", "queued"),
        ("response.queued", "queued"),
    ]
    await carried_out(kit, seen[0].response.id)  # type: ignore[union-attr]
    seen += [event async for event in stream]
    types = [event.type for event in seen]
    assert types[2:5] == OPENING[1:]
    assert middle(types[5:-4])
    assert types[-4:] == [*CLOSING, "response.completed"]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))


async def test_every_streaming_event_in_order(ai: openai.AsyncOpenAI) -> None:
    """Of the official types; deltas join to the text that each later event repeats."""
    stream = await ai.responses.create(model=MODEL, input="Hi", stream=True)
    events: list[Any] = [event async for event in stream]
    types = [event.type for event in events]
    assert types[:4] == OPENING
    assert middle(types[4:-4])
    assert types[-4:] == [*CLOSING, "response.completed"]
    text = "".join(event.delta for event in events[4:-4])
    done, part, item, completed = events[-4:]
    assert text == done.text == part.part.text == item.item.content[0].text == completed.response.output_text == TEXT
    assert {e.item_id for e in (*events[4:-4], done, part)} == {events[2].item.id} == {completed.response.output[0].id}


async def told(ai: openai.AsyncOpenAI, response: str, **cursor: int) -> list[Any]:
    """The events of a stored response."""
    return [event.to_dict() async for event in await ai.responses.retrieve(response, stream=True, **cursor)]  # type: ignore[call-overload]


async def test_a_stream_is_picked_up_behind_any_event(ai: openai.AsyncOpenAI) -> None:
    """With the official ``starting_after``: the later events, each once, as they would have come."""
    whole = [event.to_dict() async for event in await ai.responses.create(model=MODEL, input="Hi", stream=True)]
    response: Any = whole[0]["response"]
    for after in range(len(whole) - 1):
        assert await told(ai, response["id"], starting_after=after) == whole[after + 1 :]


@pytest.mark.parametrize("after", [0, 3, 6])
async def test_a_stream_is_picked_up_while_the_turn_runs(ai: openai.AsyncOpenAI, kit: TurnKit, after: int) -> None:
    """Behind an event that it has had already or only will have: what follows is what a reader of all of it sees."""
    response = await _running(ai, kit)
    stream = await ai.responses.retrieve(response["id"], stream=True, starting_after=after)
    assert (await ai.responses.retrieve(response["id"])).status == "in_progress"
    kit.backend.gate.set()
    events = [event.to_dict() async for event in stream]
    assert events[-1]["type"] == "response.completed"
    whole = await told(ai, response["id"])
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert events == whole[after + 1 :]


async def _running(ai: openai.AsyncOpenAI, kit: TurnKit) -> Any:
    """A response whose client has left before any text."""
    kit.backend.gate.clear()
    stream = await ai.responses.create(model=MODEL, input="Hi", stream=True)
    first = (await anext(aiter(stream))).to_dict()
    await stream.close()
    return first["response"]


async def test_a_browser_reconnects(browser: httpx.AsyncClient, ai: openai.AsyncOpenAI) -> None:
    """It repeats its first address and says which event it read last; that counts, and its checksum is compared."""
    response = await ai.responses.create(model=MODEL, input="Hi")
    path = f"/v1/responses/{response.id}?stream=true&starting_after=0"
    whole = await events_of(browser, f"/v1/responses/{response.id}?stream=true")
    assert await events_of(browser, path) == whole[1:]
    for place, (name, _) in enumerate(whole[:-1]):
        assert await events_of(browser, path, **{"last-event-id": name}) == whole[place + 1 :]
    number, _, checksum = whole[6][0].partition(".")
    other = f"{number}.{int(checksum, 16) ^ 1:08x}"
    refused = await browser.get(path, headers={"last-event-id": other})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "stream_diverged")


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [
        ("?stream=true&starting_after=-1", {}, "starting_after"),
        ("?starting_after=1", {}, "starting_after"),
        ("?stream=true", {"last-event-id": "seven"}, "Last-Event-ID"),
    ],
)
async def test_a_malformed_cursor(
    browser: httpx.AsyncClient, ai: openai.AsyncOpenAI, query: str, headers: dict[str, str], param: str
) -> None:
    """It is a 400 that names it."""
    response = await ai.responses.create(model=MODEL, input="Hi")
    refused = await browser.get(f"/v1/responses/{response.id}{query}", headers=headers)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_a_cursor_past_the_end(ai: openai.AsyncOpenAI) -> None:
    """It has a code of its own."""
    response = await ai.responses.create(model=MODEL, input="Hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.responses.retrieve(response.id, stream=True, starting_after=999)
    assert caught.value.code == "cursor_past_end"


async def test_a_stream_whose_process_goes_away_is_read_elsewhere(
    browser: httpx.AsyncClient, ai: openai.AsyncOpenAI, kit: TurnKit
) -> None:
    """Its last event has no id, so a client's cursor stays right; another process goes on where it was."""
    kit.backend.gate.clear()
    stream = await ai.responses.create(model=MODEL, input="Hi", stream=True)
    response = (await anext(aiter(stream))).response.id  # type: ignore[union-attr]
    reading = asyncio.create_task(events_of(browser, f"/v1/responses/{response}?stream=true"))
    await until(lambda: kit.service._tails._watches)
    for owner in kit.service._owners.values():
        owner.end(Ending.RELEASED)
    rest = [event async for event in stream]
    assert rest[-1].type == "error"
    assert rest[-1].code == "turn_moved"
    kit.backend.gate.set()
    await carried_out(kit, response)
    events = await reading
    assert events[-1][1]["type"] == "response.completed"
    assert [body["sequence_number"] for _, body in events] == list(range(len(events)))


async def test_who_waits_for_a_turn_that_its_process_leaves_hears_where_the_answer_will_be(
    ai: openai.AsyncOpenAI, kit: TurnKit
) -> None:
    """By its id; and a client does not ask a second time by itself."""
    kit.backend.gate.clear()
    waiting = asyncio.create_task(ai.with_options(max_retries=2).responses.create(model=MODEL, input="Hi"))
    await until(lambda: kit.backend.requests)
    for owner in kit.service._owners.values():
        owner.end(Ending.RELEASED)
    with pytest.raises(openai.APIStatusError) as caught:
        await waiting
    assert (caught.value.status_code, caught.value.code) == (503, "turn_moved")
    kit.backend.gate.set()
    (response,) = [ref.turn for ref in kit.due.times]
    assert response in caught.value.message
    await carried_out(kit, response)
    assert (await ai.responses.retrieve(response)).status == "completed"


async def test_cancelling(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """One that waits is cancelled at once, one that runs with what was said, one that ended stays as it is."""
    waiting = await ai.responses.create(model=MODEL, input="Hi", background=True)
    assert (await ai.responses.cancel(waiting.id)).status == "cancelled"
    running = await _running(ai, kit)
    cancelled = await ai.responses.cancel(running["id"])
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "")
    kit.backend.gate.set()
    ended = await ai.responses.create(model=MODEL, input="Hi")
    assert (await ai.responses.cancel(ended.id)).to_dict() == ended.to_dict()


async def test_deleting(ai: openai.AsyncOpenAI) -> None:
    """It is gone, and what goes on from it is told so."""
    response = await ai.responses.create(model=MODEL, input="Hi")
    await ai.responses.delete(response.id)
    for call in (ai.responses.retrieve, ai.responses.delete, ai.responses.cancel, ai.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            await call(response.id)
    with pytest.raises(openai.NotFoundError) as caught:
        await ai.responses.create(model=MODEL, input="Hi", previous_response_id=response.id)
    assert caught.value.code == "previous_response_deleted"
    assert "was deleted" in caught.value.message
    with pytest.raises(openai.NotFoundError) as caught:
        await ai.responses.create(model=MODEL, input="Hi", previous_response_id=UNKNOWN)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_input_items(ai: openai.AsyncOpenAI) -> None:
    """Paged both ways; not those that were said before."""
    first = await ai.responses.create(model=MODEL, input="Before")
    asked: Any = [{"role": "user", "content": f"{i}"} for i in range(5)]
    response = await ai.responses.create(model=MODEL, input=asked, previous_response_id=first.id)
    for order, expected in (("asc", "01234"), ("desc", "43210")):
        page = await ai.responses.input_items.list(response.id, order=order, limit=2)  # type: ignore[arg-type]
        assert "".join([item.content[0].text async for item in page]) == expected  # type: ignore[union-attr]


async def test_going_on_from_responses(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """Twice from one: both prompts begin with what it was sent and what it said."""
    first = await ai.responses.create(model=MODEL, input="One")
    shared = kit.backend.requests[-1].prompt_ids + kit.backend.answer
    for question in ("Two", "Three"):
        later = await ai.responses.create(model=MODEL, input=question, previous_response_id=first.id)
        assert later.previous_response_id == first.id
        assert kit.backend.requests[-1].prompt_ids[: len(shared)] == shared


@pytest.mark.parametrize(
    "mixture",
    [{"background": True}, {"previous_response_id": UNKNOWN}, {"conversation": "conv_" + "a" * 16}],
)
async def test_what_is_not_stored_can_neither_wait_nor_go_on(ai: openai.AsyncOpenAI, mixture: dict[str, Any]) -> None:
    """The field that forbids it is named."""
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.responses.create(model=MODEL, input="Hi", store=False, **mixture)
    assert caught.value.param == "store"


async def test_a_request_sent_again(ai: openai.AsyncOpenAI, kit: TurnKit) -> None:
    """Under its key it is answered once; another body is a conflict; each reply has a request id of its own."""
    again = {"extra_headers": {"Idempotency-Key": "k1"}}
    raw = [await ai.responses.with_raw_response.create(model=MODEL, input="Hi", **again) for _ in range(2)]  # type: ignore[arg-type]
    first, second = (one.parse().to_dict() for one in raw)
    assert first == second
    assert len(kit.backend.requests) == 1
    assert len({one.headers["x-request-id"] for one in raw}) == 2
    with pytest.raises(openai.ConflictError) as caught:
        await ai.responses.create(model=MODEL, input="Other", **again)  # type: ignore[arg-type]
    assert caught.value.code == "idempotency_mismatch"


ENDINGS: dict[str, tuple[list[Fault], dict[str, Any], str]] = {
    "completed": ([], {}, "completed"),
    "incomplete": ([], {"max_output_tokens": 3}, "incomplete"),
    "failed": ([Fault(FaultKind.FAILED, 4)], {}, "failed"),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_is_retrieved_is_what_the_last_event_said(ai: openai.AsyncOpenAI, kit: TurnKit, ending: str) -> None:
    """However it ended, field by field."""
    faults, asked, status = ENDINGS[ending]
    kit.backend.faults = iter(faults)
    last: Any = [event async for event in await ai.responses.create(model=MODEL, input="Hi", stream=True, **asked)][-1]
    assert last.type == f"response.{ending}"
    kept = await ai.responses.retrieve(last.response.id)
    assert (kept.status, kept.to_dict()) == (status, last.response.to_dict())


@pytest.mark.parametrize("has_text", [False, True])
async def test_what_is_retrieved_of_a_cancelled_one(
    ai: openai.AsyncOpenAI,
    kit: TurnKit,
    has_text: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """Also what was said, if anything was."""
    if not has_text:
        kit.backend.gate.clear()
    stream = await ai.responses.create(model=MODEL, input="Hi", stream=True)
    events: list[Any] = [await anext(aiter(stream))]
    while has_text and events[-1].type != "response.output_text.delta":
        events.append(await anext(aiter(stream)))
        kit.backend.gate.clear()
    answer = await ai.responses.cancel(events[0].response.id)
    events += [event async for event in stream]
    kept = await ai.responses.retrieve(answer.id)
    assert events[-1].type == "response.incomplete"
    assert kept.to_dict() == answer.to_dict() == events[-1].response.to_dict()
    assert (kept.status, bool(kept.output_text)) == ("cancelled", has_text)


@pytest.fixture
async def orphan(kit: TurnKit) -> AsyncIterator[tuple[str, str]]:
    """A response and its conversation, whose process died in mid-answer a while ago."""
    conversation, others = await kit.conversation(), asyncio.all_tasks()
    doomed = Doomed(NOTED, is_after=True)
    hasty = replace(LIVE, journal=replace(LIVE.journal, lease_s=0.01, flush_ids=2))
    service = await World(kit).process(doomed, hasty)
    reading = asyncio.create_task(collect(service.respond(replace(kit.stored_turn(), conversation=conversation))))
    await doomed.died.wait()
    dead = asyncio.all_tasks() - others
    await asyncio.sleep(hasty.journal.lease_s)
    yield doomed.begun[0], conversation
    assert reading in dead
    await bury(dead)


async def test_what_is_retrieved_of_one_that_nobody_finished(
    ai: openai.AsyncOpenAI, kit: TurnKit, orphan: tuple[str, str]
) -> None:
    """Its conversation went on: what was said is there, marked as a part."""
    response, conversation = orphan
    kit.service._parts = replace(kit.service._parts, settings=replace(LIVE, orphan_s=0.0))
    await ai.responses.create(model=MODEL, input="And now?", conversation=conversation)
    kept = await ai.responses.retrieve(response)
    assert kept.status == "incomplete"
    assert kept.incomplete_details is not None
    assert kept.incomplete_details.reason is None
    assert kept.output_text
    assert TEXT.startswith(kept.output_text)
    last: Any = [event async for event in await ai.responses.retrieve(response, stream=True)][-1]
    assert last.response.to_dict() == kept.to_dict()


async def test_what_was_asked_survives_retrieval(ai: openai.AsyncOpenAI) -> None:
    """Every field that the response repeats, the schema under its own name too."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    asked: dict[str, Any] = {
        "temperature": 0.25,
        "top_p": 0.5,
        "metadata": {"k": "v"},
        "user": "u-1",
        "instructions": "Be kind.",
        "truncation": "auto",
        "service_tier": "flex",
        "prompt_cache_key": "pk",
        "max_output_tokens": 40,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
    }
    made = await ai.responses.create(model=MODEL, input="Hi", **asked)
    kept = (await ai.responses.retrieve(made.id)).to_dict()
    assert kept == made.to_dict()
    told: Any = {name: kept[name] for name in asked if name not in {"include", "text"}}
    assert told == {name: value for name, value in asked.items() if name not in {"include", "text"}}
    assert kept["text"]["format"]["schema"] == schema  # type: ignore[index]
