"""Turns whose history comes with the request."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from cluster.errors import ContextLengthExceededError, InvalidRequestError, NoReplicaError, OverloadedError
from cluster.protocol import FinishReason
from services.backend.scripted import Fault, FaultKind
from services.turns.events import EventKind, Message, Role, TurnStarted
from services.turns.prompt import PromptMessage, prompt_ids
from tests.support.turn_kit import collect, deltas, until, user


async def test_a_turn_starts_streams_and_completes(kit, tokenizer):
    """``TurnStarted`` says who serves and with what seed; the last event has text, ids and usage."""
    started, events = await collect(kit.service.chat(kit.chat_turn()))
    result = events[-1].result
    sent = kit.backend.requests[0]
    assert (started.response_id, started.conversation, started.served.rank) == ("", None, 0)
    assert (started.seed, started.prompt_tokens) == (sent.sampling.seed, len(sent.prompt_ids))
    assert deltas(events) == result.text == "Hello there. How are you?"
    assert list(result.ids) == kit.backend.answer
    assert result.usage.output_tokens == len(kit.backend.answer)
    assert events[-1].kind is EventKind.COMPLETED


async def test_without_options_a_turn_is_sampled_as_chatglm3_does(kit, tokenizer):
    """Temperature and top-p 0.8, top-k 50, the model's stop ids, and what is left of the context."""
    await collect(kit.service.chat(kit.chat_turn()))
    sent = kit.backend.requests[0]
    params = sent.sampling
    assert (params.temperature, params.top_p, params.top_k) == (0.8, 0.8, 50)
    assert params.stop_ids == tokenizer.stop_ids
    assert params.max_new_tokens == kit.model.context_length - len(sent.prompt_ids)


async def test_options_are_passed_on(kit):
    """Zeros are choices, not absences; ``ignore_eos`` leaves no stop id."""
    turn = kit.chat_turn(temperature=0.0, top_p=1.0, top_k=0, seed=11, max_tokens=5, ignore_eos=True)
    started, _ = await collect(kit.service.chat(turn))
    params = kit.backend.requests[0].sampling
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.0, 1.0, 0, 11)
    assert (params.max_new_tokens, params.stop_ids, started.seed) == (5, (), 11)


async def test_a_drawn_seed_is_new_each_time_and_fits_a_signed_number(kit):
    """Clients in languages without unsigned numbers can send it back."""
    seeds = {(await collect(kit.service.chat(kit.chat_turn())))[0].seed for _ in range(3)}
    negative, _ = await collect(kit.service.chat(kit.chat_turn(seed=-1)))
    assert len(seeds) == 3
    assert all(0 <= seed < 2**63 for seed in (*seeds, negative.seed))


async def test_an_answer_cut_by_its_limit_is_incomplete(kit):
    """The text so far stands; the reason says why it ends."""
    _, events = await collect(kit.service.chat(kit.chat_turn(max_tokens=3)))
    assert events[-1].kind is EventKind.INCOMPLETE
    assert events[-1].result.reason is FinishReason.LENGTH
    assert len(events[-1].result.ids) == 3


async def test_a_stop_string_ends_the_answer_and_aborts_the_engine(kit):
    """The client sees nothing of it, and no token is computed for nobody."""
    _, events = await collect(kit.service.chat(kit.chat_turn(stop=("w are",))))
    assert deltas(events) == "Hello there. Ho"
    assert (events[-1].kind, events[-1].result.reason) == (EventKind.COMPLETED, FinishReason.STOP)
    assert kit.backend.aborted == [kit.backend.requests[0].attempt]


async def test_usage_of_an_answer_with_a_stop_string_knows_its_cached_tokens(kit):
    """They come with the first ids, not only with the finish that never comes."""
    await collect(kit.service.chat(kit.chat_turn()))
    _, events = await collect(kit.service.chat(kit.chat_turn(stop=("there",))))
    usage = events[-1].result.usage
    assert usage.cached_tokens == usage.prompt_tokens - 1


async def test_an_unchanged_answer_gets_its_sampled_ids_back(kit, tokenizer):
    """The next prompt begins with what the replica holds, though the client sent only text."""
    kit.backend.answer = [*tokenizer.encode_text("\n He"), *tokenizer.encode_text("\nllo")[2:]]  # not how text encodes
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    history = (user("Hi"), Message(Role.ASSISTANT, events[-1].result.text), user("more"))
    await collect(kit.service.chat(kit.chat_turn(*history)))
    first, second = kit.backend.requests
    held = first.prompt_ids + kit.backend.answer
    assert second.prompt_ids[: len(held)] == held
    assert kit.service.metrics.index_hits == 1


async def test_a_returned_answer_says_where_its_cache_is(kit):
    """The next turn of a stateless chat follows its KV, also to the replica that an outage moved it to."""
    kit.backend.faults = iter([Fault(FaultKind.LOST, after=2)])
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    history = (user("Hi"), Message(Role.ASSISTANT, events[-1].result.text), user("more"))
    await collect(kit.service.chat(kit.chat_turn(*history)))
    *_, moved, second = kit.backend.requests
    assert second.hint is not None
    assert (second.hint.incarnation, moved.avoid) == ("replica-b", ("replica-a",))
    assert second.hint.tokens == len(moved.prompt_ids) + len(events[-1].result.ids)


async def test_a_changed_answer_is_encoded_as_text(kit, tokenizer):
    """What the client edited is what the model reads."""
    await collect(kit.service.chat(kit.chat_turn()))
    history = (user("Hi"), Message(Role.ASSISTANT, "Hello THERE."), user("more"))
    await collect(kit.service.chat(kit.chat_turn(*history)))
    expected = prompt_ids(tokenizer, [PromptMessage(message.role, message.text) for message in history])
    assert kit.backend.requests[1].prompt_ids == expected


async def test_another_tenants_answer_is_not_found(kit):
    """Sampled ids stay with whom they were sampled for."""
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    history = (user("Hi"), Message(Role.ASSISTANT, events[-1].result.text), user("more"))
    turn = kit.chat_turn(*history)
    object.__setattr__(turn, "tenant", "umbrella")
    await collect(kit.service.chat(turn))
    assert kit.service.metrics.index_hits == 0


async def test_a_long_prompt_is_encoded_like_a_short_one(kit, tokenizer):
    """Above the bound a thread does it; the ids are the same."""
    text = "Hello there. " * 5000
    with pytest.raises(ContextLengthExceededError) as caught:
        await collect(kit.service.chat(kit.chat_turn(user(text))))
    assert caught.value.prompt_tokens == len(prompt_ids(tokenizer, [PromptMessage("user", text)]))


@pytest.mark.parametrize(
    ("options", "error"),
    [({"max_tokens": 512}, ContextLengthExceededError), ({"max_tokens": 0}, InvalidRequestError)],
)
async def test_a_request_that_cannot_be_served_is_refused_before_anything(kit, options, error):
    """No attempt is made."""
    with pytest.raises(error):
        await collect(kit.service.chat(kit.chat_turn(**options)))
    assert not kit.backend.requests
    assert kit.service.metrics.turns == {"refused": 1}


@pytest.mark.parametrize(
    ("kind", "error"), [(FaultKind.OVERLOADED, OverloadedError), (FaultKind.NO_REPLICA, NoReplicaError)]
)
async def test_a_turn_nobody_takes_is_raised(kit, kind, error):
    """The gateway makes 429 or 503 of it."""
    kit.backend.faults = iter([Fault(kind)])
    with pytest.raises(error):
        await collect(kit.service.chat(kit.chat_turn()))
    assert kit.service.metrics.errors == {error.code: 1}


async def test_a_replica_lost_in_mid_answer_does_not_show(kit):
    """Text, ids and event numbers are those of an undisturbed answer."""
    _, expected = await collect(kit.service.chat(kit.chat_turn(seed=1)))
    kit.backend._kept.clear()
    kit.backend.faults = iter([Fault(FaultKind.LOST, 6), Fault(FaultKind.MOVED, 9)])
    _, events = await collect(kit.service.chat(kit.chat_turn(seed=1)))
    assert events == expected
    assert kit.service.metrics.moves == 2


async def test_an_error_in_mid_answer_is_the_last_event(kit):
    """It follows on the last number, with its code and the text so far."""
    kit.backend.faults = iter([Fault(FaultKind.FAILED, 6)])
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    last = events[-1]
    assert last.kind is EventKind.FAILED
    assert [event.seq for event in events] == list(range(len(events)))
    assert (last.result.error_code, last.result.text) == ("generation_failed", deltas(events))
    assert kit.service.metrics.turns == {"failed": 1}


async def test_a_client_that_leaves_ends_the_generation_at_once(kit):
    """Closing the generator has aborted the attempt when it returns."""
    async with aclosing(kit.service.chat(kit.chat_turn())) as events:
        assert isinstance(await anext(events), TurnStarted)
    assert kit.backend.aborted == [kit.backend.requests[0].attempt]
    assert kit.service.metrics.turns == {"cancelled": 1}
    assert kit.service.metrics.active == 0


async def test_a_cancelled_client_that_waits_for_its_first_token_ends_the_generation(kit):
    """During prefill there is no event to close at; cancelling the reader does it."""
    kit.backend.gate.clear()
    reader = asyncio.create_task(collect(kit.service.chat(kit.chat_turn())))
    await until(lambda: kit.backend.requests)
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})
    assert len(kit.backend.aborted) == 1


async def test_chat_works_while_the_store_is_away(kit):
    """A stateless turn needs no record."""
    kit.store.is_away = True
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    assert events[-1].kind is EventKind.COMPLETED


async def test_what_turns_add_up_to_is_counted(kit):
    """Tokens, times and placements, once each."""
    await collect(kit.service.chat(kit.chat_turn()))
    metrics, answer = kit.service.metrics, kit.backend.answer
    assert metrics.turns == {"completed": 1}
    assert (metrics.output_tokens, metrics.prompt_tokens) == (len(answer), len(kit.backend.requests[0].prompt_ids))
    assert (sum(metrics.ttft_s.counts), sum(metrics.latency_s.counts)) == (1, len(answer) - 1)
    assert (metrics.pins, metrics.active) == ({"placed": 1}, 0)
