"""The writer of all running turns' records, with its clock and its flushes in the test's hands."""

from __future__ import annotations

import asyncio

import pytest

from cluster.errors import NotFoundError, StoreUnavailableError, TurnLostError, TurnMovedError
from services.conversations import ids
from services.conversations.store import Reply, Verdict
from services.turns.journal import Journal
from services.turns.settings import JournalSettings
from services.turns.ticket import News
from tests.fakes.unsteady_store import UnsteadyStore
from tests.support.turn_kit import until
from tests.support.turns import TENANT, a_begin, journal_of


class Bench:
    """A journal over a store; both read ``now``."""

    def __init__(self, settings: JournalSettings | None = None) -> None:
        self.now = 1000.0
        self.store = UnsteadyStore(clock=lambda: self.now)
        self.journal = Journal(self.store, settings or JournalSettings(retry_s=0.0), clock=lambda: self.now)
        self.heard: list[News] = []

    async def open(self):
        turn = ids.new_response(ids.new_conversation())
        begin = a_begin(turn, new_line=True, lease_s=15.0)
        reply = await self.store.begin(begin)
        assert reply.verdict is Verdict.OK
        ticket = self.journal.open(
            tenant=TENANT,
            turn=turn,
            owner="a",
            sent_at=self.now,
            on_news=self.heard.append,
            begin_again=lambda: self.store.begin(begin),
        )
        return turn, ticket

    async def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        await self.journal._flush(self.now, everything=True)

    async def written(self, turn: str) -> list[int]:
        return await journal_of(self.store, turn)


async def test_all_turns_of_a_process_share_one_call():
    """Two turns with new ids cost one ``note``."""
    bench = Bench()
    (first, a), (second, b) = await bench.open(), await bench.open()
    a.extend([1, 2])
    b.extend([3])
    await bench.tick()
    assert [len(notes) for notes in bench.store.notes] == [2]
    assert (await bench.written(first), await bench.written(second)) == ([1, 2], [3])


async def test_ids_already_written_are_not_sent_again():
    """Each note starts where the last one ended."""
    bench = Bench()
    turn, ticket = await bench.open()
    for part in ([1, 2], [3], [4, 5]):
        ticket.extend(part)
        await bench.tick()
    assert [(note.start, len(note.ids)) for [note] in bench.store.notes] == [(0, 2), (2, 1), (3, 2)]
    assert await bench.written(turn) == [1, 2, 3, 4, 5]


async def test_first_ids_and_many_ids_do_not_wait_for_the_tick():
    """The running task writes them as they come, long before its next tick."""
    bench = Bench(JournalSettings(flush_s=3600.0, flush_ids=4))
    await bench.journal.start()
    turn, ticket = await bench.open()
    await until(lambda: bench.journal._urgent.is_set() is False)
    ticket.extend([1])
    await until(lambda: ticket.waiting == 0)
    ticket.extend([2, 3])
    assert not ticket.is_urgent()
    ticket.extend([4, 5])
    await until(lambda: ticket.waiting == 0)
    assert await bench.written(turn) == [1, 2, 3, 4, 5]
    await bench.journal.stop()


async def test_the_running_task_writes_every_tick_and_stops():
    """Ids that are neither first nor many are written too; afterwards no task is left."""
    bench = Bench(JournalSettings(flush_s=0.001))
    bench.journal.clock = asyncio.get_running_loop().time
    await bench.journal.start()
    turn, ticket = await bench.open()
    for part in ([1], [2], [3]):
        ticket.extend(part)
        await until(lambda: ticket.waiting == 0)
    await bench.journal.stop()
    assert await bench.written(turn) == [1, 2, 3]
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "turn-journal"]


async def test_a_turn_without_new_ids_shows_life():
    """A long prefill keeps its lease by empty notes, one each two seconds, for as long as it takes."""
    bench = Bench()
    _, ticket = await bench.open()
    for _ in range(240):
        await bench.tick(0.25)
        assert ticket.can_emit()
    assert 30 <= len(bench.store.notes) <= 35
    assert all(not note.ids for [note] in bench.store.notes)


async def test_nothing_may_be_said_once_the_lease_is_in_doubt():
    """Twelve of the fifteen seconds after the last acknowledged write was sent, and not before."""
    bench = Bench()
    _, ticket = await bench.open()
    bench.now += 11.9
    assert ticket.can_emit()
    bench.now += 0.2
    assert not ticket.can_emit()


async def test_the_lease_counts_from_when_the_write_was_sent():
    """A reply that was long under way does not prolong it."""
    bench = Bench()
    _, ticket = await bench.open()
    bench.now += 5
    bench.store.gate.clear()
    ticket.extend([1])
    write = asyncio.create_task(bench.tick())
    await asyncio.sleep(0)
    bench.now += 10
    bench.store.gate.set()
    await write
    assert ticket.deadline == 1005 + 12


async def test_a_reader_waits_while_the_store_is_away_and_goes_on_when_it_is_back():
    """Nothing is lost: what came in between is written with the first note that succeeds."""
    bench = Bench()
    turn, ticket = await bench.open()
    bench.store.is_away = True
    ticket.extend([1])
    await bench.tick(13)
    reader = asyncio.create_task(ticket.emittable())
    await asyncio.sleep(0)
    assert not reader.done()
    ticket.extend([2])
    bench.store.is_away = False
    await bench.tick(1)
    await reader
    assert await bench.written(turn) == [1, 2]


async def test_a_store_away_for_a_minute_ends_its_turns():
    """Sixty seconds past the lease the turn ends, with the store's error, and its owner is told once."""
    bench = Bench()
    _, ticket = await bench.open()
    bench.store.is_away = True
    await bench.tick(12 + 59)
    assert ticket.error is None
    await bench.tick(1)
    await bench.tick(1)
    with pytest.raises(StoreUnavailableError):
        await ticket.emittable()
    assert bench.heard == [News(has_failed=True)]


async def test_a_part_of_the_store_that_is_away_ends_its_own_turns_only():
    """The others are written meanwhile, and keep their leases."""
    bench = Bench()
    (turn, ticket), (other, beside) = await bench.open(), await bench.open()
    bench.store.silent = {turn}
    ticket.extend([1])
    beside.extend([7])
    for _ in range(12 + 60 + 2):
        await bench.tick(1)
    assert await bench.written(other) == [7]
    assert beside.can_emit()
    with pytest.raises(StoreUnavailableError):
        await ticket.emittable()
    assert bench.heard == [News(has_failed=True)]


@pytest.mark.parametrize(
    ("verdict", "error"),
    [(Verdict.LOST, TurnMovedError), (Verdict.GONE, NotFoundError)],
)
async def test_a_turn_that_is_not_ours_any_more_ends_at_once(verdict, error):
    """A stopped process that wakes up learns it from its first note and says nothing."""
    bench = Bench()
    _, ticket = await bench.open()
    bench.now += 100
    reader = asyncio.create_task(ticket.emittable())
    await asyncio.sleep(0)
    bench.store.note_reply = Reply(verdict)
    await bench.tick()
    with pytest.raises(error):
        await reader
    assert bench.heard == [News(has_failed=True)]
    assert not ticket.can_emit()


async def test_a_record_that_the_store_has_lost_begins_again():
    """A failover forgot it: the same turn, by the same owner, with all ids from the first; and other turns go on."""
    bench = Bench()
    (turn, ticket), (other, beside) = await bench.open(), await bench.open()
    ticket.extend([1, 2], moves=1)
    await bench.tick()
    bench.store.lose(TENANT, turn)
    bench.now += 10
    ticket.extend([3], moves=1)
    beside.extend([7])
    await bench.tick()
    await bench.tick()
    assert (await bench.written(turn), await bench.written(other)) == ([1, 2, 3], [7])
    assert (await bench.store.turn(TENANT, turn)).moves == 1
    assert ticket.can_emit()
    assert not bench.heard


async def test_a_lost_record_whose_line_moved_on_is_lost():
    """Somebody else has the line by now; what was said here is nobody's."""
    bench = Bench()
    turn, ticket = await bench.open()
    bench.store.lose(TENANT, turn)
    later = ids.new_response(ids.conversation_of(turn))
    assert (await bench.store.begin(a_begin(later, owner="b"))).verdict is Verdict.OK
    ticket.extend([1])
    await bench.tick()
    assert isinstance(ticket.error, TurnLostError)
    with pytest.raises(NotFoundError):
        await bench.store.turn(TENANT, turn)


async def test_a_store_away_while_a_record_begins_again_is_waited_for(monkeypatch):
    """The next note finds it absent again, and it begins then."""
    bench = Bench()
    turn, ticket = await bench.open()
    bench.store.lose(TENANT, turn)
    ticket.extend([1])
    begin = ticket.begin_again
    monkeypatch.setattr(ticket, "begin_again", bench.store.away)
    await bench.tick()
    assert ticket.error is None
    monkeypatch.setattr(ticket, "begin_again", begin)
    await bench.tick()
    await bench.tick()
    assert await bench.written(turn) == [1]


async def test_a_store_that_lost_ids_gets_them_again():
    """A gap says where to go on from."""
    bench = Bench()
    _, ticket = await bench.open()
    ticket.extend([1, 2, 3])
    await bench.tick()
    bench.store.note_reply = Reply(Verdict.GAP, value=1)
    ticket.extend([4])
    await bench.tick()
    bench.store.note_reply = None
    await bench.tick()
    assert list(bench.store.notes[-1][0].ids) == [2, 3, 4]
    assert bench.store.notes[-1][0].start == 1


async def test_a_cancel_is_told_to_the_owner():
    """It comes back with a note's reply; the turn is not in error."""
    bench = Bench()
    _, ticket = await bench.open()
    bench.store.note_reply = Reply(Verdict.OK, cancel=True)
    ticket.extend([1])
    await bench.tick()
    assert bench.heard == [News(is_cancelled=True)]
    assert ticket.error is None


async def test_after_close_no_note_of_the_turn_is_under_way():
    """Closing waits for a note that has been sent: the commit is then the only writer."""
    bench = Bench()
    turn, ticket = await bench.open()
    bench.store.gate.clear()
    ticket.extend([1])
    write = asyncio.create_task(bench.tick())
    await asyncio.sleep(0)
    closing = asyncio.create_task(bench.journal.close(ticket))
    await asyncio.sleep(0)
    assert not closing.done()
    bench.store.gate.set()
    await closing
    await write
    ticket.extend([2])
    await bench.tick(10)
    assert await bench.written(turn) == [1]


async def test_a_broken_reply_ends_the_turns_it_was_for_and_nobody_elses():
    """The writer goes on: the next turn's ids are written."""
    bench = Bench()
    _, broken = await bench.open()
    bench.store.note_reply = "no reply at all"
    broken.extend([1])
    await bench.tick()
    assert isinstance(broken.error, TurnLostError)
    await bench.journal.close(broken)
    bench.store.note_reply = None
    turn, ticket = await bench.open()
    ticket.extend([2])
    await bench.tick()
    assert await bench.written(turn) == [2]


async def test_a_committed_turn_needs_no_lease():
    """A slow reader may take its last events whenever it likes."""
    bench = Bench()
    _, ticket = await bench.open()
    ticket.release()
    bench.now += 10_000
    assert ticket.can_emit()
