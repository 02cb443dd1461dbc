"""Turns of a conversation that the store keeps."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import replace

import pytest

from cluster.errors import (
    ContextLengthExceededError,
    ConversationBusyError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    StoreUnavailableError,
)
from cluster.protocol import FinishReason, Hint
from services.backend.scripted import Fault, FaultKind
from services.conversations.queueing import Ref
from services.conversations.records import TurnState
from services.conversations.store import Reply, Verdict
from services.turns.carrying import Carried, Fate
from services.turns.events import EventKind, Idempotency, TurnStarted
from services.turns.prompt import digest
from services.turns.settings import JournalSettings
from tests.support.turn_kit import MODEL, QUICK, TENANT, collect, deltas, until, user
from tests.support.turns import journal_of

TEXT = "Hello there. How are you?"


async def line_of(kit, conversation):
    return await kit.store.load(TENANT, conversation)


async def state_of(kit, response_id):
    return (await kit.store.turn(TENANT, response_id)).state


async def test_a_turn_leaves_question_and_answer_in_the_conversation(kit):
    """The answer keeps the ids it was sampled with, and the line the place of its KV."""
    conversation = await kit.conversation()
    started, events = await collect(kit.service.respond(kit.stored_turn(user("Hi"), conversation=conversation)))
    line = await line_of(kit, conversation)
    question, answer = line.items
    assert (question.role, question.text, question.ids, question.turn) == ("user", "Hi", None, started.response_id)
    assert (answer.role, answer.text, answer.ids) == ("assistant", TEXT, kit.backend.answer)
    assert (answer.id, answer.turn, answer.status) == (started.item_id, started.response_id, "completed")
    held = started.prompt_tokens + len(kit.backend.answer)
    assert line.hint == Hint(rank=0, incarnation="replica-a", tokens=held)
    assert deltas(events) == TEXT
    assert line.active == ""


async def test_a_turn_starts_with_its_ids(kit):
    """``TurnStarted`` names response, answer item and conversation, all of one root."""
    conversation = await kit.conversation()
    started, _ = await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    root = conversation.removeprefix("conv_")
    assert started.conversation == conversation
    assert started.response_id.startswith(f"resp_{root}")
    assert started.item_id.startswith(f"msg_{root}")


async def test_every_prompt_begins_with_all_that_went_before(kit):
    """Over six turns the cache is asked for nothing it does not hold."""
    conversation = await kit.conversation()
    for turn in range(6):
        _, events = await collect(kit.service.respond(kit.stored_turn(user(f"{turn}"), conversation=conversation)))
        usage = events[-1].result.usage
        sent = kit.backend.requests[-1]
        before = kit.backend.requests[-2].prompt_ids + kit.backend.answer if turn else []
        assert sent.prompt_ids[: len(before)] == before
        assert usage.cached_tokens >= len(before)
    assert len({request.pin_key for request in kit.backend.requests}) == 1
    assert kit.backend.requests[-1].hint.tokens == len(before)


async def test_instructions_are_read_this_turn_only(kit, tokenizer):
    """They open the prompt and are no part of the history."""
    conversation = await kit.conversation()
    await collect(kit.service.respond(kit.stored_turn(conversation=conversation, instructions="Be kind.")))
    sent = kit.backend.requests[0].prompt_ids
    assert sent[2] == tokenizer.role_id("system")
    assert [item.role for item in (await line_of(kit, conversation)).items] == ["user", "assistant"]


async def test_a_turn_without_a_conversation_gets_a_line_of_its_own(kit):
    """Its record and answer are found by the response's id."""
    started, events = await collect(kit.service.respond(kit.stored_turn()))
    record = await kit.store.turn(TENANT, started.response_id)
    assert started.conversation is None
    assert (record.state, record.answer.text) == (TurnState.COMPLETED, TEXT)
    assert events[-1].kind is EventKind.COMPLETED


async def test_the_record_holds_what_another_owner_needs(kit):
    """Input, parameters with the drawn seed, stop strings and the prompt's digest."""
    started, _ = await collect(kit.service.respond(kit.stored_turn(user("Hi"), stop=("xyz",))))
    record = await kit.store.turn(TENANT, started.response_id)
    sent = kit.backend.requests[0]
    assert [item.text for item in await kit.store.turn_input(TENANT, record)] == ["Hi"]
    assert (record.request.stop, record.request.prompt_digest) == (["xyz"], digest(sent.prompt_ids))
    assert (record.total, record.finish) == (len(kit.backend.answer), FinishReason.STOP)
    assert record.usage == {"prompt_tokens": len(sent.prompt_ids), "cached_tokens": 0, "output_tokens": record.total}


async def test_while_a_turn_runs_its_ids_reach_the_journal(kit):
    """Another process can read them before the turn has ended."""
    kit.backend.frame = 5
    async with aclosing(kit.service.respond(kit.stored_turn())) as events:
        started = await anext(events)
        await anext_of_kind(events, EventKind.TEXT_DELTA)
        kit.backend.gate.clear()
        await until(lambda: any(note.ids for notes in kit.store.notes for note in notes))
        held = await journal_of(kit.store, started.response_id)
        assert held == kit.backend.answer[: len(held)] != []


async def test_the_last_event_waits_for_the_commit(kit):
    """Completed means recorded."""
    conversation = await kit.conversation()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    seen = [await anext(events)]
    kit.store.gate.clear()
    while seen[-1] is seen[0] or seen[-1].kind is not EventKind.ITEM_DONE:
        seen.append(await anext(events))
    last = asyncio.ensure_future(anext(events))
    await until(lambda: kit.store.gate._waiters)
    assert not last.done()
    kit.store.gate.set()
    assert (await last).kind is EventKind.COMPLETED
    assert len((await line_of(kit, conversation)).items) == 2
    await events.aclose()


async def test_a_commit_whose_reply_was_lost_is_sent_again(kit):
    """The record has one answer, and the turn completes."""
    kit.store.lost_commits = 2
    conversation = await kit.conversation()
    _, events = await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    assert events[-1].kind is EventKind.COMPLETED
    assert len((await line_of(kit, conversation)).items) == 2


async def test_a_slow_reader_gets_the_rest_of_a_recorded_turn_whenever_it_likes(kit):
    """Once the answer is committed no lease is needed to say it."""
    events = kit.service.respond(kit.stored_turn())
    started = await anext(events)
    await until(lambda: not kit.service._owners)
    kit.service._journal.clock = lambda: 1e12  # ages later
    rest = [event async for event in events]
    assert await state_of(kit, started.response_id) is TurnState.COMPLETED
    assert (deltas(rest), rest[-1].kind) == (TEXT, EventKind.COMPLETED)


async def test_an_answer_cut_by_its_limit_is_kept_as_incomplete(kit):
    """Item and record say so."""
    conversation = await kit.conversation()
    started, events = await collect(kit.service.respond(kit.stored_turn(conversation=conversation, max_tokens=4)))
    assert events[-1].kind is EventKind.INCOMPLETE
    assert (await line_of(kit, conversation)).items[-1].status == "incomplete"
    assert await state_of(kit, started.response_id) is TurnState.INCOMPLETE


async def test_a_stop_string_is_cut_out_of_text_and_ids(kit, tokenizer):
    """What is stored decodes to what was sent."""
    conversation = await kit.conversation()
    _, events = await collect(kit.service.respond(kit.stored_turn(conversation=conversation, stop=("w are",))))
    answer = (await line_of(kit, conversation)).items[-1]
    assert answer.text == deltas(events) == tokenizer.decode(answer.ids).lstrip() == "Hello there. Ho"
    assert answer.status == "completed"


async def test_a_second_turn_is_refused_while_one_runs(kit):
    """409 with the running response's id; the first goes on."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    started = await anext(events)
    with pytest.raises(ConversationBusyError) as caught:
        await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    assert caught.value.active == started.response_id
    kit.backend.gate.set()
    assert [event async for event in events][-1].kind is EventKind.COMPLETED


async def test_a_line_that_moved_on_is_loaded_again(kit, monkeypatch):
    """A turn that ended between load and begin costs one more look."""
    conversation = await kit.conversation()
    begin, tries = kit.store.begin, []

    async def late(request):
        tries.append(request)
        return Reply(Verdict.VERSION, value=1) if len(tries) == 1 else await begin(request)

    monkeypatch.setattr(kit.store, "begin", late)
    _, events = await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    assert events[-1].kind is EventKind.COMPLETED
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [({"max_tokens": 512}, ContextLengthExceededError), ({"max_tokens": 0}, InvalidRequestError)],
)
async def test_a_bad_request_writes_nothing(kit, options, error):
    """The conversation is as it was and free."""
    conversation = await kit.conversation()
    with pytest.raises(error):
        await collect(kit.service.respond(kit.stored_turn(conversation=conversation, **options)))
    assert (await line_of(kit, conversation)).version == 0
    assert not kit.store.commits


@pytest.mark.parametrize("conversation", ["conv_aaaaaaaaaaaaaaaa", "conv_x", "nonsense"])
async def test_an_unknown_conversation_is_not_found(kit, conversation):
    """Malformed ids are answered alike."""
    with pytest.raises(NotFoundError):
        await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))


async def test_a_turn_nobody_takes_leaves_the_conversation_free(kit):
    """The error is raised, the record is failed, the history is untouched."""
    conversation = await kit.conversation()
    kit.backend.faults = iter([Fault(FaultKind.OVERLOADED)])
    with pytest.raises(OverloadedError):
        await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    line = await line_of(kit, conversation)
    assert (line.active, line.items) == ("", [])
    assert kit.store.commits[0].state is TurnState.FAILED
    assert kit.service.metrics.turns == {"refused": 1}


async def test_an_error_in_mid_answer_fails_the_turn(kit):
    """Last event and record carry its code; the history is untouched."""
    conversation = await kit.conversation()
    kit.backend.faults = iter([Fault(FaultKind.FAILED, 6)])
    started, events = await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    record = await kit.store.turn(TENANT, started.response_id)
    assert (events[-1].kind, events[-1].result.error_code) == (EventKind.FAILED, "generation_failed")
    assert (record.state, record.error_code) == (TurnState.FAILED, "generation_failed")
    assert (await line_of(kit, conversation)).items == []
    assert [event.seq for event in events] == list(range(len(events)))


async def test_a_replica_lost_in_mid_answer_does_not_show(kit):
    """The answer is whole, and the hint names the replica that finished it."""
    conversation = await kit.conversation()
    kit.backend.faults = iter([Fault(FaultKind.LOST, 6)])
    _, events = await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    line = await line_of(kit, conversation)
    assert (deltas(events), line.items[-1].ids) == (TEXT, kit.backend.answer)
    assert (line.hint.rank, line.hint.incarnation) == (1, "replica-b")


async def test_a_client_that_leaves_has_its_turn_recorded_as_cancelled(kit):
    """Question and partial answer stay; the generation is aborted; the conversation is free at once."""
    conversation = await kit.conversation()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    started = await anext(events)
    async for event in events:
        if event.kind is EventKind.TEXT_DELTA:
            kit.backend.gate.clear()
            break
    await events.aclose()
    line = await line_of(kit, conversation)
    assert await state_of(kit, started.response_id) is TurnState.CANCELLED
    assert line.active == ""
    assert TEXT.startswith(line.items[-1].text)
    assert (line.items[-1].role, line.items[-1].status) == ("assistant", "incomplete")
    assert len(kit.backend.aborted) == 1


async def test_a_client_that_leaves_before_any_text_leaves_no_trace_in_the_history(kit):
    """A cancelled turn without an answer appends nothing."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    started = await anext(events)
    await events.aclose()
    assert await state_of(kit, started.response_id) is TurnState.CANCELLED
    assert (await line_of(kit, conversation)).items == []


async def test_a_client_cancelled_twice_still_has_its_turn_recorded(kit):
    """The record is written by its owner, which no impatient server can cancel."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    reader = asyncio.create_task(collect(kit.service.respond(kit.stored_turn(conversation=conversation))))
    await until(lambda: kit.backend.requests)
    kit.store.gate.clear()
    reader.cancel()
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})
    kit.store.gate.set()
    await until(lambda: kit.store.commits)
    assert kit.store.commits[0].state is TurnState.CANCELLED


async def test_a_client_that_leaves_during_begin_leaves_a_free_conversation(kit):
    """The record that came too late to be wanted is closed, not left to its lease."""
    conversation = await kit.conversation()
    kit.store.gate.clear()
    reader = asyncio.create_task(collect(kit.service.respond(kit.stored_turn(conversation=conversation))))
    await until(lambda: kit.store.gate._waiters)
    reader.cancel()
    kit.store.gate.set()
    await asyncio.wait({reader})
    assert (await line_of(kit, conversation)).active == ""
    assert not kit.backend.requests


async def test_a_cancel_seen_by_the_journal_ends_the_turn(kit):
    """The client gets a last event that says so."""
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn())
    started = await anext(events)
    kit.store.note_reply = Reply(Verdict.OK, cancel=True)
    kinds = [event.kind async for event in events]
    assert kinds[-1] is EventKind.CANCELLED
    assert await state_of(kit, started.response_id) is TurnState.CANCELLED


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.LOST, "turn_moved"), (Verdict.GONE, "not_found")])
async def test_a_turn_taken_by_another_owner_ends_here_without_a_write(kit, verdict, code):
    """The last event says where to look; the record belongs to somebody else."""
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn())
    await anext(events)
    kit.store.note_reply = Reply(verdict)
    last = [event async for event in events][-1]
    assert (last.kind, last.result.error_code) == (EventKind.BROKEN, code)
    assert not kit.store.commits
    assert len(kit.backend.aborted) == 1


async def test_a_conversation_erased_in_mid_turn_ends_the_turn(kit):
    """Nothing is written back."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    await anext(events)
    await kit.store.delete(TENANT, conversation)
    last = [event async for event in events][-1]
    assert last.result.error_code == "not_found"
    with pytest.raises(NotFoundError):
        await line_of(kit, conversation)


async def test_a_store_away_before_begin_refuses_the_turn(kit):
    """503, and no generation."""
    conversation = await kit.conversation()
    kit.store.is_away = True
    with pytest.raises(StoreUnavailableError):
        await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    assert not kit.backend.requests


async def test_a_store_away_in_mid_turn_and_back_does_not_show(kit):
    """Generation goes on meanwhile; the commit lands when the store is back."""
    conversation = await kit.conversation()
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    await anext(events)
    kit.store.is_away = True
    kit.backend.gate.set()
    rest = asyncio.ensure_future(anext_of_kind(events, EventKind.ITEM_DONE))
    await rest
    kit.store.is_away = False
    assert [event async for event in events][-1].kind is EventKind.COMPLETED
    assert (await line_of(kit, conversation)).items[-1].text == TEXT


async def anext_of_kind(events, kind):
    async for event in events:
        if not isinstance(event, TurnStarted) and event.kind is kind:
            return event
    raise AssertionError(f"no {kind}")


class TestWithoutPatience:
    """Stores that stay away, with all waiting times at nearly nothing."""

    @pytest.fixture
    async def hasty(self, kit):
        journal = JournalSettings(lease_s=3.0, margin_s=3.0, flush_s=0.002, renew_s=0.01, away_s=0.0, retry_s=0.001)
        kit.settings = replace(QUICK, journal=journal)
        service = kit.another()
        await service.start()
        yield service
        await service.stop()

    async def test_a_turn_ends_with_the_stores_error(self, kit, hasty):
        """Past its lease nothing is said; past the limit the last event says why."""
        kit.backend.gate.clear()
        events = hasty.respond(kit.stored_turn())
        reader = asyncio.ensure_future(collect(events))
        await until(lambda: kit.backend.requests)
        kit.store.is_away = True
        with pytest.raises(StoreUnavailableError):
            await reader  # the lease was over before the first event, so nothing was said at all
        assert len(kit.backend.aborted) == 1


async def test_a_prompt_longer_than_the_context_says_so_with_its_history(kit):
    """The conversation that no longer fits is refused, and stays readable."""
    conversation = await kit.conversation()
    await collect(kit.service.respond(kit.stored_turn(user("word " * 100), conversation=conversation)))
    kit.model = replace(MODEL, context_length=100)
    with pytest.raises(ContextLengthExceededError):
        await collect(kit.another().respond(kit.stored_turn(conversation=conversation)))
    assert len((await line_of(kit, conversation)).items) == 2


async def test_stopping_the_service_leaves_what_runs_to_others(kit):
    """A process that goes away in order hands its turns over at once, with all that was said."""
    conversation = await kit.conversation()
    events = kit.service.respond(kit.stored_turn(conversation=conversation))
    started = await anext(events)
    await anext_of_kind(events, EventKind.TEXT_DELTA)
    kit.backend.gate.clear()
    await kit.service.stop()
    rest = [event async for event in events]
    assert (rest[-1].kind, rest[-1].result.error_code) == (EventKind.BROKEN, "turn_moved")
    assert await kit.due.look() == [Ref(TENANT, started.response_id)]
    kit.backend.gate.set()
    other = kit.another()
    await other.start()
    assert await other.carry_out(TENANT, started.response_id) == Carried(Fate.ENDED)
    await other.stop()
    assert await state_of(kit, started.response_id) is TurnState.COMPLETED
    assert (await line_of(kit, conversation)).items[-1].text == TEXT


async def test_stopping_while_the_store_does_not_answer_says_that_the_turn_has_moved(kit, monkeypatch):
    """It has not ended, neither for its client nor for whoever carries it out: its lease runs out by itself."""
    monkeypatch.setattr("services.turns.service._STOP_S", 0.01)
    response_id = await kit.service.enqueue(replace(kit.stored_turn(), is_background=True))
    kit.backend.gate.clear()
    events = kit.service.respond(kit.stored_turn())
    await anext(events)
    carrying = asyncio.create_task(kit.service.carry_out(TENANT, response_id))
    await until(lambda: len(kit.backend.requests) == 2)
    kit.store.gate.clear()
    kit.backend.gate.set()
    await kit.service.leave()
    last = [event async for event in events][-1]
    assert (last.kind, last.result.error_code) == (EventKind.BROKEN, "turn_moved")
    assert (await carrying).fate is Fate.OWNED
    kit.store.gate.set()
    assert await state_of(kit, response_id) is TurnState.RUNNING


async def test_a_fault_of_our_own_is_told_and_recorded(kit):
    """A bug in the middle of an answer fails the turn; it does not lock the conversation."""
    conversation = await kit.conversation()
    kit.backend.answer = lambda _: 1 // 0
    _, events = await collect(kit.service.respond(kit.stored_turn(conversation=conversation)))
    assert events[-1].result.error_code == "internal_error"
    assert (await line_of(kit, conversation)).active == ""


async def test_a_begin_without_a_reply_stays_due(kit):
    """It may have been carried out: then the turn waits for whoever looks after what is due."""
    kit.store.lost_begins = 1
    turn = replace(kit.stored_turn(), idempotency=Idempotency("key", "body"), is_background=True)
    with pytest.raises(StoreUnavailableError):
        await kit.service.enqueue(turn)
    response_id = await kit.service.enqueue(turn)
    assert await state_of(kit, response_id) is TurnState.QUEUED
    assert list(kit.due.times) == [Ref(TENANT, response_id)]


async def test_a_job_is_due_when_its_lease_is_over(kit):
    """However long its queue would leave it alone: its worker may die, or may not get to say that it has ended."""
    response_id = await kit.service.enqueue(replace(kit.stored_turn(), is_background=True))
    kit.backend.gate.clear()
    carrying = asyncio.create_task(kit.service.carry_out(TENANT, response_id))
    await until(lambda: kit.backend.requests)
    assert kit.due.times[Ref(TENANT, response_id)] <= time.time() + kit.settings.journal.lease_s
    kit.backend.gate.set()
    assert await carrying == Carried(Fate.ENDED)
    assert not kit.due.times


async def test_the_end_of_a_turn_is_taken_from_the_index_once_the_store_is_back(kit, monkeypatch):
    """The caller does not wait for that."""
    remove, is_away = kit.due.remove, asyncio.Event()

    async def remove_later(tenant, turn):
        if is_away.is_set():
            raise StoreUnavailableError("The store does not answer.", retry_after_s=1.0)
        await remove(tenant, turn)

    monkeypatch.setattr(kit.due, "remove", remove_later)
    is_away.set()
    started, events = await collect(kit.service.respond(kit.stored_turn()))
    assert events[-1].kind is EventKind.COMPLETED
    assert list(kit.due.times) == [Ref(TENANT, started.response_id)]
    is_away.clear()
    await until(lambda: not kit.due.times)
