"""Turns whose owner has died: found by the index, and ended as if it had lived."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from cluster.errors import StoreUnavailableError
from services.backend.scripted import ScriptedBackend
from services.conversations import ids
from services.conversations.queueing import Ref
from services.conversations.records import TurnState
from services.conversations.store import Part
from services.turns.events import EventKind, TurnEvent
from services.turns.settings import JournalSettings, TurnSettings
from tests.fakes.turnstile import Turnstile
from tests.support.dispatch_kit import DispatchKit, drawn_answer
from tests.support.turn_kit import TENANT, TurnKit, until, user

SEED = 20_260_101
LEASE_S = 15.0
SLEEPY = TurnSettings(journal=JournalSettings(flush_s=0.002, renew_s=600.0))  # shows no life without new ids


async def undisturbed(kit: DispatchKit, text: str = "Tell me"):
    """The record of the same turn, carried out by one owner."""
    async with kit.dispatcher():
        return await kit.ended(await kit.enqueue(text, options={"seed": SEED}))


async def orphaned(kit: DispatchKit, text: str = "Tell me", *, deltas: int = 3) -> str:
    """An interactive turn whose process dies when its client has so much of the answer; its id."""
    turns = kit.service()
    await turns.start()
    turn = TurnKit(kit.tokenizer, kit.backend).stored_turn(user(text), seed=SEED)
    async with aclosing(turns.respond(turn)) as events:
        started = await anext(events)
        seen = 0
        async for event in events:
            seen += isinstance(event, TurnEvent) and event.kind is EventKind.TEXT_DELTA
            if seen == deltas:
                kit.backend.gate.clear()
                break
        await until(lambda: all(ticket.waiting == 0 for ticket in turns._journal._tickets))
        for task in list(turns._owners):
            task.cancel()
        await turns._journal.stop()
    await turns._tails.stop()
    kit.backend.gate.set()
    return started.response_id


async def test_an_orphan_is_ended_with_the_answer_that_it_would_have_had(kit):
    """The same ids, to the last: the journal's, and behind them what the same seed draws."""
    whole = await undisturbed(kit)
    turn = await orphaned(kit)
    held = (await kit.record(turn)).total
    kit.clock.by += LEASE_S + 1
    async with kit.dispatcher():
        record = await kit.ended(turn)
        await kit.settled()
    request = kit.backend.requests[-1]
    assert (record.state, record.ids, record.answer.text) == (whole.state, whole.ids, whole.answer.text)
    assert 0 < held < len(whole.ids)
    assert request.output_ids == whole.ids[:held]
    assert request.prompt_ids == kit.backend.requests[0].prompt_ids


async def test_an_orphan_is_left_alone_until_its_lease_is_over(kit):
    """Its owner may be alive; the index shows it again then."""
    turn = await orphaned(kit)
    kit.clock.by += LEASE_S - 2
    async with kit.dispatcher():
        await until(lambda: kit.due.times)
        for _ in range(20):
            assert (await kit.record(turn)).claims == 0
        kit.clock.by += 3
        assert (await kit.ended(turn)).state is TurnState.COMPLETED


async def test_a_cancelled_orphan_is_committed_from_its_journal(kit):
    """Nothing more is generated."""
    turn = await orphaned(kit)
    held = (await kit.record(turn)).total
    await kit.store.cancel(TENANT, turn)
    asked = len(kit.backend.requests)
    kit.clock.by += LEASE_S + 1
    async with kit.dispatcher():
        record = await kit.ended(turn)
        await kit.settled()
    assert (record.state, len(record.ids), record.answer.status) == (TurnState.CANCELLED, held, "incomplete")
    assert len(kit.backend.requests) == asked


async def test_an_orphan_without_a_free_slot_is_left_to_others(kit):
    """The index shows it again, also to another dispatcher."""
    kit.backend.gate.clear()
    busy = await kit.enqueue("A long one")
    turn = await kit.enqueue("Hi")
    async with kit.dispatcher("a", slots=1):
        await until(lambda: kit.backend.requests)
        await kit.queue.drop(TENANT, turn)
        await kit.due.move(TENANT, turn, in_s=0.0)
        await kit.store.claim(TENANT, turn, owner="dead", lease_s=0.0)
        async with kit.dispatcher("b", slots=1):
            await until(lambda: len(kit.backend.requests) == 2)
            kit.backend.gate.set()
            assert (await kit.ended(turn)).state is TurnState.COMPLETED
    assert (await kit.record(busy)).state is TurnState.COMPLETED


async def test_a_killed_dispatchers_turn_goes_on_where_it_was(kit):
    """Long before its job is missed in the queue: its lease says so."""
    whole = await undisturbed(kit)
    kit.backend.gate = gate = Turnstile(5)
    turn = await kit.enqueue("Tell me", options={"seed": SEED})
    async with kit.dispatcher("a", is_killed=True):
        await kit.holds(turn, 5)
    gate.set()
    kit.clock.by += LEASE_S + 1
    async with kit.dispatcher("b"):
        record = await kit.ended(turn)
        kit.clock.by += 60.0
        await kit.settled()
    assert record.ids == whole.ids
    assert kit.backend.requests[-1].output_ids == whole.ids[:5]


async def test_an_owner_that_lives_is_not_robbed(kit):
    """Not even where the index shows its turn too early."""
    kit.backend.gate = gate = Turnstile(5)
    turn = await kit.enqueue()
    async with kit.dispatcher("a"), kit.dispatcher("b"):
        await kit.holds(turn, 5)
        for _ in range(20):
            await kit.due.move(TENANT, turn, in_s=0.0)
            await asyncio.sleep(0.002)
        gate.set()
        assert (await kit.ended(turn)).claims == 1


async def test_an_owner_that_wakes_after_its_lease_writes_nothing_more(kit):
    """While it slept another one took over; the turn is recorded once, by that one."""
    whole = await undisturbed(kit)
    kit.backend.gate = gate = Turnstile(5)
    turn = await kit.enqueue("Tell me", options={"seed": SEED})
    sleeper = ScriptedBackend(drawn_answer(kit.tokenizer))
    sleeper.gate = nap = Turnstile(2)
    async with kit.dispatcher("a", seams={"backend": sleeper, "settings": SLEEPY}, slots=1) as dispatcher:
        await kit.holds(turn, 2)
        kit.clock.by += LEASE_S + 1
        async with kit.dispatcher("b"):
            await until(lambda: gate.is_shut)
            nap.set()
            await until(lambda: not dispatcher.facts().used)
            assert (await kit.record(turn)).state is TurnState.RUNNING
            gate.set()
            record = await kit.ended(turn)
    assert record.ids == whole.ids
    line = await kit.store.load(TENANT, record.conversation, Part(line=record.line))
    assert (record.claims, [item.text for item in line.items]) == (2, ["Tell me", whole.answer.text])


async def test_an_orphan_that_ends_in_a_bug_stays_due(kit, monkeypatch):
    """Nothing is recorded, so it is to be looked at until somebody brings it to its end."""
    turn = await orphaned(kit)
    commit, bugs = kit.store.commit, iter([True])

    async def crash_once(change):
        if next(bugs, False):
            kit.clock.by += LEASE_S + 1
            raise RuntimeError("a bug")
        return await commit(change)

    monkeypatch.setattr(kit.store, "commit", crash_once)
    kit.clock.by += LEASE_S + 1
    async with kit.dispatcher():
        assert (await kit.ended(turn)).state is TurnState.COMPLETED
        await kit.settled()


async def test_a_record_that_cannot_be_read_holds_up_no_other(kit, monkeypatch):
    """A look that meets it goes on behind it, and leaves it alone for a while."""
    bad, good = await orphaned(kit), await orphaned(kit)
    read = kit.store.turn

    async def look(**_options):
        return [Ref(TENANT, bad), Ref(TENANT, good)]

    async def unreadable(tenant: str, turn: str):
        if turn == bad:
            raise ValueError("no record")
        return await read(tenant, turn)

    monkeypatch.setattr(kit.due, "look", look)
    monkeypatch.setattr(kit.store, "turn", unreadable)
    kit.clock.by += LEASE_S + 1
    async with kit.dispatcher(longest_pause_s=60.0):
        assert (await kit.ended(good)).state is TurnState.COMPLETED
    assert kit.due.times[Ref(TENANT, bad)] > kit.clock() + 30.0


async def test_a_part_of_the_store_that_is_away_holds_up_no_turn_elsewhere(kit, monkeypatch):
    """Of a Cluster: what can be looked at is, in every look, and the rest once it is back."""
    silent, good = await orphaned(kit), await orphaned(kit)
    read, is_away = kit.store.turn, True

    async def look(**_options):
        return [Ref(TENANT, silent), Ref(TENANT, good)]

    async def away(tenant: str, turn: str):
        if turn == silent and is_away:
            raise StoreUnavailableError("away", retry_after_s=0.001)
        return await read(tenant, turn)

    monkeypatch.setattr(kit.due, "look", look)
    monkeypatch.setattr(kit.store, "turn", away)
    kit.clock.by += LEASE_S + 1
    async with kit.dispatcher():
        assert (await kit.ended(good)).state is TurnState.COMPLETED
        is_away = False
        assert (await kit.ended(silent)).state is TurnState.COMPLETED


async def test_a_released_turn_is_gone_on_with_at_once(kit):
    """A dispatcher that is stopped gives its turns up: no lease and no age of a job is waited for."""
    whole = await undisturbed(kit)
    kit.backend.gate = gate = Turnstile(5)
    turn = await kit.enqueue("Tell me", options={"seed": SEED})
    async with kit.dispatcher("a"):
        await until(lambda: gate.is_shut)
    released = await kit.record(turn)
    assert (released.state, released.until_ms, released.total) == (TurnState.RUNNING, 0, 5)
    assert (await kit.queue.lag()).working == 0
    gate.set()
    async with kit.dispatcher("b"):
        assert (await kit.ended(turn)).ids == whole.ids
        await kit.settled()
    assert kit.backend.requests[-1].output_ids == whole.ids[:5]


async def test_a_dispatcher_that_drains_ends_what_it_can(kit):
    """Within the time that it is given nothing is handed over."""
    kit.backend.gate.clear()
    turn = await kit.enqueue()
    async with kit.dispatcher("a") as dispatcher:
        await until(lambda: kit.backend.requests)
        kit.backend.gate.set()
        await dispatcher.stop(drain_s=20.0)
        record = await kit.record(turn)
    assert (record.state, record.claims) == (TurnState.COMPLETED, 1)
    await kit.settled()


async def test_jobs_taken_while_it_stops_are_given_up_too(kit, monkeypatch):
    """The last reply of the queue may come after the word to stop."""
    take, stopping = kit.queue.take_many, []

    async def slow_take(consumer: str, limit: int):
        entries = await take(consumer, limit)
        if entries:
            dispatcher._is_stopping.set()
            stopping.append(len(entries))
        return entries

    kit.backend.gate.clear()
    turn = await kit.enqueue()
    monkeypatch.setattr(kit.queue, "take_many", slow_take)
    async with kit.dispatcher("a") as dispatcher:
        await until(lambda: stopping)
    monkeypatch.undo()
    kit.backend.gate.set()
    async with kit.dispatcher("b"):
        assert (await kit.ended(turn)).state is TurnState.COMPLETED
        await kit.settled()


async def test_a_turn_without_a_record_is_due_for_a_minute(kit):
    """Its maker may be slow, or ask again after a store that was away: then it is found when its owner dies."""
    turn = ids.new_response(ids.new_conversation())
    await kit.due.add(TENANT, turn, in_s=0.0)
    async with kit.dispatcher(absent_s=60.0):
        for _ in range(4):
            await until(lambda: kit.due.times[Ref(TENANT, turn)] > kit.clock())
            kit.clock.by += 16.0
        await until(lambda: not kit.due.times)
