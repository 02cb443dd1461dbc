"""Turns read from their records, while they run and after: the same events as their owners tell."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import CursorPastEndError, NotFoundError, StoreUnavailableError, StreamDivergedError
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import Fault, FaultKind, ScriptedBackend
from services.conversations.records import TurnState
from services.conversations.store import Tailed
from services.turns.events import Cursor, EventKind, StoredTurn, TurnEvent
from services.turns.settings import JournalSettings
from tests.fakes.unsteady_store import UnsteadyStore
from tests.support.kills import told
from tests.support.turn_kit import QUICK, TENANT, TINY, TurnKit, collect, deltas, until, user

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
ANSWER = TOKENIZER.encode_text("\n Hello there 你好👩. How are you?")
LIVE = replace(QUICK, look_s=0.001, resume_s=60.0, journal=JournalSettings(flush_s=0.001, retry_s=0.001, away_s=0.05))


class Bench:
    """A turn that an owner computes, and readers in another process."""

    def __init__(self, frame: int = 2) -> None:
        self.kit = TurnKit(TOKENIZER, ScriptedBackend(ANSWER, frame=frame), settings=LIVE, store=AwayAtTimes())
        self.owner, self.other = self.kit.service, self.kit.another()

    async def __aenter__(self) -> Self:
        await self.owner.start()
        await self.other.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.owner.stop()
        await self.other.stop()

    def turn(self, **options) -> StoredTurn:
        return self.kit.stored_turn(user("Hi"), **options)

    async def run(self, **options) -> tuple[str, list[TurnEvent]]:
        started, events = await collect(self.owner.respond(self.turn(**options)))
        return started.response_id, events

    async def read(self, response: str, cursor: Cursor | None = None) -> list[TurnEvent]:
        return (await collect(self.other.read(TENANT, response, cursor)))[1]

    async def reader_of(self, response: str) -> asyncio.Task[list[TurnEvent]]:
        """A reading of a turn that runs, once it looks."""
        reading = asyncio.create_task(self.read(response))
        await until(lambda: self.other._tails._watches)
        return reading

    async def only_turn(self) -> str:
        """The turn that is under way, once it is at the backend."""
        await until(lambda: self.kit.backend.requests)
        (ref,) = self.kit.due.times
        return ref.turn


class AwayAtTimes(UnsteadyStore):
    """Away for readers too."""

    async def turn(self, tenant, turn):
        await self._pass()
        return await super().turn(tenant, turn)

    async def tail(self, tails):
        await self._pass()
        return await super().tail(tails)


@given(st.integers(1, 20), st.data())
def test_a_reader_sees_what_the_owner_tells_from_every_event_on(frame, data):
    """However ids are grouped; nothing is missing and nothing comes twice."""

    async def check() -> None:
        async with Bench(frame) as bench:
            response, events = await bench.run()
            k = data.draw(st.integers(-1, len(events) - 2))
            cursor = Cursor(events[k].seq, data.draw(st.sampled_from([None, events[k].crc]))) if k >= 0 else None
            seen = await bench.read(response, cursor)
            assert told(seen) == told(events)
            assert seen[-1].result == events[-1].result

    asyncio.run(check())


@pytest.mark.parametrize("frame", [1, 3, 50])
@pytest.mark.parametrize(
    "options", [{}, {"stop": ("w are",)}, {"logprobs": 2}, {"logprobs": 0, "stop": ("re. H",)}, {"max_tokens": 7}]
)
async def test_a_live_reader_gets_the_owners_events(frame, options):
    """From the first one, with log probabilities and up to stop strings."""
    async with Bench(frame) as bench:
        bench.kit.backend.gate.clear()
        telling = asyncio.create_task(bench.run(**options))
        reading = await bench.reader_of(await bench.only_turn())
        bench.kit.backend.gate.set()
        (_, events), seen = await asyncio.gather(telling, reading)
        assert told(seen) == told(events)
        assert [event.logprobs for event in seen] == [event.logprobs for event in events]
        assert seen[-1].result == events[-1].result


@pytest.mark.parametrize(
    ("faults", "kind"), [([Fault(FaultKind.FAILED, 5)], EventKind.FAILED), ([], EventKind.COMPLETED)]
)
async def test_an_ended_turn_reads_as_it_ended(faults, kind):
    """A failure too, to the last number and checksum."""
    async with Bench() as bench:
        bench.kit.backend.faults = iter(faults)
        response, events = await bench.run()
        seen = await bench.read(response)
        assert (told(seen), seen[-1].kind) == (told(events), kind)


async def test_another_checksum_is_another_answer():
    """The reader is told before any event; the answer itself can be retrieved."""
    async with Bench() as bench:
        response, events = await bench.run()
        with pytest.raises(StreamDivergedError):
            await bench.read(response, Cursor(6, events[6].crc ^ 1))
        assert bench.other.metrics.diverged == 1


@pytest.mark.parametrize("beyond", [0, 1, 1000])
async def test_there_is_nothing_behind_the_last_event(beyond):
    """Its number is named, wherever the cursor points."""
    async with Bench() as bench:
        response, events = await bench.run()
        last = events[-1].seq
        with pytest.raises(CursorPastEndError, match=f"{last}") as caught:
            await bench.read(response, Cursor(last + beyond))
        assert caught.value.last == last


async def test_a_cursor_with_a_checksum_behind_the_end_is_of_another_answer():
    """Whoever knows the checksum has read an event that this answer does not have."""
    async with Bench() as bench:
        response, events = await bench.run()
        with pytest.raises(StreamDivergedError):
            await bench.read(response, Cursor(events[-1].seq + 1, events[-1].crc))
        with pytest.raises(CursorPastEndError):
            await bench.read(response, Cursor(events[-1].seq, events[-1].crc))


async def test_a_cursor_ahead_of_the_journal_waits_for_it():
    """Its reader saw ids that were not written yet; they come again, and the checksum is compared then."""
    async with Bench(frame=50) as bench:
        _, events = await bench.run()
        bench.kit.backend.gate.clear()
        running = bench.owner.respond(bench.turn())
        later = (await anext(running)).response_id
        async with aclosing(bench.other.read(TENANT, later, Cursor(9, events[9].crc))) as reading:
            await anext(reading)
            seen = [await anext(reading) for _ in range(4)]
            assert seen[-1].kind is EventKind.PART_ADDED
            bench.kit.backend.gate.set()
            seen += [event async for event in reading]
        assert told(seen) == told(events)
        await running.aclose()


async def test_an_answer_that_was_made_anew_and_differs_is_told_to_a_live_reader():
    """The store lost writes: what was read is not how the record begins."""
    async with Bench() as bench:
        bench.kit.backend.gate.clear()
        running = bench.owner.respond(bench.turn())
        response = (await anext(running)).response_id
        async with aclosing(bench.other.read(TENANT, response)) as reading:
            await anext(reading)
            (watch,) = await _watched(bench, reading)
            watch.take(Tailed(TurnState.RUNNING, [ANSWER[0], ANSWER[2]]))
            bench.kit.backend.gate.set()
            last = [event async for event in reading][-1]
        assert (last.kind, last.result.error_code) == (EventKind.BROKEN, "stream_diverged")
        await running.aclose()


async def _watched(bench, reading):
    for _ in range(4):
        await anext(reading)
    return bench.other._tails._watches


async def test_a_turn_erased_while_it_is_read_ends_the_stream():
    """The last event says so, and is none of the turn's."""
    async with Bench() as bench:
        bench.kit.backend.gate.clear()
        running = bench.owner.respond(bench.turn())
        response = (await anext(running)).response_id
        reading = await bench.reader_of(response)
        await bench.kit.store.delete_turn(TENANT, response)
        last = (await reading)[-1]
        assert (last.kind, last.result.error_code) == (EventKind.BROKEN, "not_found")
        await running.aclose()


async def test_a_store_away_for_a_moment_is_only_a_pause():
    """Also where it goes just as the turn ends."""
    async with Bench() as bench:
        bench.kit.backend.gate.clear()
        telling = asyncio.create_task(bench.run())
        reading = await bench.reader_of(await bench.only_turn())
        bench.kit.store.is_away = True
        bench.kit.backend.gate.set()
        await asyncio.sleep(0.01)
        bench.kit.store.is_away = False
        (_, events), seen = await asyncio.gather(telling, reading)
        assert told(seen) == told(events)


async def test_a_store_that_stays_away_ends_the_stream():
    """With the store's error; the turn has its own patience."""
    async with Bench() as bench:
        bench.kit.backend.gate.clear()
        running = bench.owner.respond(bench.turn())
        response = (await anext(running)).response_id
        reading = await bench.reader_of(response)
        bench.kit.store.is_away = True
        last = (await reading)[-1]
        assert (last.kind, last.result.error_code) == (EventKind.BROKEN, "history_unavailable")
        bench.kit.store.is_away = False
        await running.aclose()


async def test_a_part_of_the_store_that_stays_away_ends_the_streams_of_its_turns_only():
    """Another turn, whose server answers, is read on."""
    async with Bench() as bench:
        bench.kit.backend.gate.clear()
        silent, heard = bench.owner.respond(bench.turn()), asyncio.create_task(bench.run())
        lost = (await anext(silent)).response_id
        await until(lambda: len(bench.kit.due.times) == 2)
        (other,) = {ref.turn for ref in bench.kit.due.times} - {lost}
        readings = [asyncio.create_task(bench.read(turn)) for turn in (lost, other)]
        await until(lambda: len(bench.other._tails._watches) == 2)
        bench.kit.store.silent = {lost}
        last = (await readings[0])[-1]
        assert (last.kind, last.result.error_code) == (EventKind.BROKEN, "history_unavailable")
        bench.kit.backend.gate.set()
        assert told(await readings[1]) == told((await heard)[1])
        bench.kit.store.silent = set()
        await silent.aclose()


async def test_an_unknown_turn_and_a_store_away_are_told_before_any_event():
    """They can still become a status."""
    async with Bench() as bench:
        with pytest.raises(NotFoundError):
            await bench.read("resp_" + "a" * 32)
        bench.kit.store.is_away = True
        with pytest.raises(StoreUnavailableError):
            await bench.read("resp_" + "a" * 32)


async def test_a_turn_in_the_background_is_read_while_it_waits_runs_waits_again_and_ends():
    """Queued is told once, whatever becomes of it; then the events are those of any turn, two numbers later."""
    async with Bench() as bench:
        response = await bench.owner.enqueue(replace(bench.turn(), is_background=True))
        async with aclosing(bench.other.read(TENANT, response)) as reading:
            await anext(reading)
            seen = [await anext(reading), await anext(reading)]
            assert [event.kind for event in seen] == [EventKind.CREATED, EventKind.QUEUED]
            bench.kit.backend.faults = iter([Fault(FaultKind.OVERLOADED)])
            await bench.owner.carry_out(TENANT, response)
            await bench.owner.carry_out(TENANT, response)
            seen += [event async for event in reading]
        assert told(seen) == told(await bench.read(response))
        assert [event.kind for event in seen].count(EventKind.QUEUED) == 1
        assert seen[-1].kind is EventKind.COMPLETED


async def test_a_waiting_turn_that_is_cancelled_ends_for_its_reader():
    """Without a word of answer."""
    async with Bench() as bench:
        response = await bench.owner.enqueue(replace(bench.turn(), is_background=True))
        reading = await bench.reader_of(response)
        record = await bench.owner.cancel(TENANT, response)
        seen = await reading
        assert (record.state, seen[-1].kind, deltas(seen)) == (TurnState.CANCELLED, EventKind.CANCELLED, "")
        assert told(seen) == told(await bench.read(response))
