"""Several answers to one prompt."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from cluster.errors import OverloadedError
from cluster.protocol import FinishReason
from services.backend.scripted import Fault, FaultKind, ScriptedBackend
from services.turns.choices import Choices
from services.turns.events import ChatTurn, EventKind, Message, Role
from services.turns.sampling import choice_seed
from tests.support.turn_kit import TENANT, TurnKit, collect, deltas, until, user

SEED = 7
TEXTS = {choice_seed(SEED, i): f"\n Answer {i}, with {'more ' * i}words." for i in range(8)}


@pytest.fixture
async def kit(tokenizer):
    """Each seed has a text of its own."""
    backend = ScriptedBackend(lambda request: tokenizer.encode_text(TEXTS[request.sampling.seed]))
    kit = TurnKit(tokenizer, backend)
    await kit.service.start()
    yield kit
    await kit.service.stop()


def asked(kit: TurnKit, choices: int, **options: object) -> ChatTurn:
    turn = kit.chat_turn(seed=SEED, **options)
    return ChatTurn(TENANT, "req_1", turn.messages, turn.options, choices=choices)


def texts(events) -> list[str]:
    return [deltas(event for event in events if event.choice == i) for i in range(max(e.choice for e in events) + 1)]


async def test_each_answer_has_its_own_seed_and_the_prompt_is_the_same(kit):
    """Same prompt, pin key and tenant; the first answer is the one that a request for one would get."""
    started, events = await collect(kit.service.chat(asked(kit, 3)))
    requests = kit.backend.requests
    result = events[-1].result
    assert {request.sampling.seed for request in requests} == {choice_seed(SEED, i) for i in range(3)}
    assert len({(tuple(request.prompt_ids), request.pin_key, request.tenant) for request in requests}) == 1
    assert len({request.attempt for request in requests}) == 3
    assert texts(events) == [TEXTS[choice_seed(SEED, i)].strip() for i in range(3)]
    assert [one.text for one in result.choices] == texts(events)
    assert started.seed == SEED


async def test_events_of_one_answer_are_those_it_would_have_alone(kit):
    """Numbers and checksums do not depend on its siblings."""
    _, alone = await collect(kit.service.chat(asked(kit, 1)))
    _, events = await collect(kit.service.chat(asked(kit, 4)))
    assert [event for event in events if event.choice == 0][:-1] == alone[:-1]


async def test_they_are_told_side_by_side(kit):
    """No answer waits for the end of another."""
    _, events = await collect(kit.service.chat(asked(kit, 2)))
    order = [event.choice for event in events if event.kind is EventKind.TEXT_DELTA]
    assert order.index(1) < len(order) - 1 - order[::-1].index(0)


async def test_usage_counts_the_prompt_once_and_all_outputs(kit):
    """So do the metrics: one turn, one prompt, one placing."""
    _, events = await collect(kit.service.chat(asked(kit, 3)))
    result, metrics = events[-1].result, kit.service.metrics
    assert result.usage.prompt_tokens == len(kit.backend.requests[0].prompt_ids) == metrics.prompt_tokens
    assert result.usage.output_tokens == sum(len(one.ids) for one in result.choices) == metrics.output_tokens
    assert result.usage.cached_tokens == metrics.cached_tokens == 0
    assert (metrics.turns, metrics.pins.total(), metrics.active) == ({"completed": 1}, 1, 0)


async def test_any_answer_can_be_sent_back(kit):
    """The sampled ids of each are known when a client goes on with it."""
    _, events = await collect(kit.service.chat(asked(kit, 3)))
    for one in events[-1].result.choices:
        history = (user("Hi"), Message(Role.ASSISTANT, one.text), user("And?"))
        await collect(kit.service.chat(kit.chat_turn(*history, seed=SEED)))
        prompt = kit.backend.requests[-1].prompt_ids
        assert str(list(one.ids))[1:-1] in str(prompt)
    assert kit.service.metrics.index_hits == 3


async def test_an_answer_that_moves_does_not_disturb_the_others(kit):
    """Failover is each one's own."""
    kit.backend.faults = iter([Fault(), Fault(FaultKind.LOST, after=3)])
    _, events = await collect(kit.service.chat(asked(kit, 3)))
    assert texts(events) == [TEXTS[choice_seed(SEED, i)].strip() for i in range(3)]
    assert (len(kit.backend.requests), kit.service.metrics.moves) == (4, 1)


async def test_a_failed_answer_fails_the_turn(kit):
    """The error is the last event, the others are aborted, and usage counts what was computed."""
    kit.backend.faults = iter([Fault(), Fault(FaultKind.FAILED, after=2)])
    _, events = await collect(kit.service.chat(asked(kit, 3)))
    last = events[-1]
    assert (last.kind, last.result.error_code) == (EventKind.FAILED, "generation_failed")
    assert last.result.usage.output_tokens >= 2
    assert kit.service.metrics.turns == {"failed": 1}
    assert kit.service.metrics.active == 0
    assert len(kit.backend.aborted) == 2


async def test_all_are_accepted_or_none(kit):
    """A replica that has room for some of them only gives an ordinary refusal, before anything is said."""
    kit.backend.faults = iter([Fault(), Fault(FaultKind.OVERLOADED)])
    with pytest.raises(OverloadedError):
        await collect(kit.service.chat(asked(kit, 3)))
    assert kit.service.metrics.turns == {"refused": 1}
    assert kit.service.metrics.prompt_tokens == 0


@pytest.mark.parametrize("num_read", [1, 12])
async def test_a_caller_that_leaves_ends_all_of_them(kit, num_read):
    """No attempt is left behind."""
    async with aclosing(kit.service.chat(asked(kit, 3))) as events:
        for _ in range(num_read):
            await anext(events)
    assert sorted(kit.backend.aborted) == sorted(request.attempt for request in kit.backend.requests)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "turn-choice"]


async def test_what_is_read_ahead_of_a_slow_caller_is_bounded(kit, monkeypatch, tokenizer):
    """The answers wait for the caller, and the replica's stream for them."""
    monkeypatch.setattr("services.turns.choices._MAX_FRAMES", 4)
    long = tokenizer.encode_text("\n" + " word" * 100)
    num_given = 0

    def given() -> int:
        return sum(len(answer.projection.ids) for answer in kit_choices[0]._answers)

    kit_choices: list[Choices] = []
    monkeypatch.setattr(
        "services.turns.stateless.Choices", lambda *args: kit_choices.append(Choices(*args)) or kit_choices[0]
    )
    kit.backend.answer = lambda _: long
    async with aclosing(kit.service.chat(asked(kit, 2))) as events:
        await anext(events)
        for _ in range(100):
            await asyncio.sleep(0)
        num_given = given()
        async for _ in events:
            pass
    assert num_given <= 4 + 2
    assert given() == 2 * len(long)


async def test_a_cut_answer_makes_the_turn_incomplete(kit):
    """Each answer keeps its own reason."""
    kit.backend.answer = lambda request: [30] * (3 if request.sampling.seed == SEED else 9)
    _, events = await collect(kit.service.chat(asked(kit, 2, max_tokens=5)))
    result = events[-1].result
    assert events[-1].kind is EventKind.INCOMPLETE
    assert [one.reason for one in result.choices] == [FinishReason.STOP, FinishReason.LENGTH]


async def test_stop_strings_and_logprobs_are_each_ones_own(kit):
    """One answer that stops early leaves the others alone."""
    _, events = await collect(kit.service.chat(asked(kit, 2, stop=(" more",), logprobs=0)))
    result = events[-1].result
    assert [one.text for one in result.choices] == ["Answer 0, with words.", "Answer 1, with"]
    assert all(one.logprobs for one in result.choices)
    assert [one.reason for one in result.choices] == [FinishReason.STOP, FinishReason.STOP]


async def test_they_wait_for_each_other_only_to_start(kit):
    """The first id of any of them comes when all are accepted."""
    kit.backend.gate.clear()
    events = kit.service.chat(asked(kit, 3))
    async with aclosing(events):
        await anext(events)
        await until(lambda: len(kit.backend.requests) == 3)
        kit.backend.gate.set()
        assert [event async for event in events][-1].kind is EventKind.COMPLETED
