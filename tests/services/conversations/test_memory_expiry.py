"""The memory store keeps and forgets on the key map's times, by a clock of the test's own."""

from __future__ import annotations

import pytest

from cluster.errors import NotFoundError
from services.conversations import ids
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import TurnState
from services.conversations.store import Reply, Reservation, Sampled, Verdict
from tests.fakes.fake_clock import FakeClock
from tests.support.turns import TENANT, a_begin, a_commit, a_note, journal_of

DAY_S = 86_400
HISTORY_TTL_S = 30 * DAY_S


@pytest.fixture
def clock():
    return FakeClock(1_000_000.0)


@pytest.fixture
def store(clock):
    return MemoryConversationStore(clock=clock, history_ttl_s=HISTORY_TTL_S)


@pytest.fixture
async def turn(store):
    made = await store.create(TENANT, metadata={})
    name = ids.new_response(made.id)
    await store.begin(a_begin(name, lease_s=15.0, deadline_s=600.0))
    await store.note([a_note(name, 0, [1, 2], lease_s=15.0)])
    return name


async def test_a_lease_frees_the_conversation_when_it_runs_out(store, clock, turn):
    """Fifteen seconds after the owner's last write the next turn may claim."""
    other = ids.new_response(ids.conversation_of(turn))
    clock.now += 14.9
    assert await store.begin(a_begin(other)) == Reply(Verdict.BUSY, turn=turn)
    clock.now += 0.1
    assert await store.begin(a_begin(other)) == Reply(Verdict.EXPIRED, value=0, turn=turn)
    clock.now += 2.5
    assert await store.begin(a_begin(other)) == Reply(Verdict.EXPIRED, value=2500, turn=turn)


async def test_a_conversation_expires_after_its_last_turn(store, clock, turn):
    """The commit renews it; then it is not found, nor is its turn."""
    clock.now += 60
    await store.commit(a_commit(turn))
    clock.now += HISTORY_TTL_S - 1
    assert (await store.load(TENANT, ids.conversation_of(turn))).version == 1
    clock.now += 1
    for read in (store.load(TENANT, ids.conversation_of(turn)), store.turn(TENANT, turn)):
        with pytest.raises(NotFoundError):
            await read


async def test_a_line_lives_as_long_as_its_last_begin_said(store, clock):
    """Through commits and changes by whoever; what its maker said holds until then."""
    made = await store.create(TENANT, metadata={}, ttl_s=90 * DAY_S)
    for version, ttl_s in enumerate([None, 45 * DAY_S]):
        turn = ids.new_response(made.id)
        clock.now += (90 if version == 0 else 30) * DAY_S - 1
        await store.begin(a_begin(turn, base_version=version, ttl_s=ttl_s))
        await store.commit(a_commit(turn, base_version=version))
    for step in (store.set_metadata(TENANT, made.id, {}), store.turn(TENANT, turn)):
        clock.now += 22 * DAY_S
        await step
    clock.now += 23 * DAY_S - 1
    assert (await store.conversation(TENANT, made.id)).id == made.id
    clock.now += 1
    with pytest.raises(NotFoundError):
        await store.conversation(TENANT, made.id)


async def test_metadata_takes_no_time_from_a_line_that_a_turn_holds(clock):
    """A turn may wait for longer than history lives, and whoever takes it over must still find its line."""
    store = MemoryConversationStore(clock=clock, history_ttl_s=60)
    made = await store.create(TENANT, metadata={})
    turn = ids.new_response(made.id)
    await store.begin(a_begin(turn, deadline_s=600.0, state=TurnState.QUEUED))
    await store.set_metadata(TENANT, made.id, {"k": "v"})
    clock.now += 300
    assert (await store.claim(TENANT, turn, owner="b", lease_s=15.0)).verdict is Verdict.OK


async def test_a_turn_that_is_cancelled_unbegun_lives_as_long_as_its_line(store, clock):
    """By the line's own time where it has one."""
    turn = ids.new_response((await store.create(TENANT, metadata={})).id)
    await store.begin(a_begin(turn, state=TurnState.QUEUED, ttl_s=90 * DAY_S))
    await store.cancel(TENANT, turn)
    clock.now += 90 * DAY_S - 1
    assert (await store.turn(TENANT, turn)).state is TurnState.CANCELLED
    clock.now += 1
    with pytest.raises(NotFoundError):
        await store.turn(TENANT, turn)


async def test_a_journal_outlives_the_deadline_by_an_hour(store, clock, turn):
    """Whoever adopts the turn later than that begins its answer anew."""
    clock.now += 600 + 3599
    assert await journal_of(store, turn) == [1, 2]
    clock.now += 1
    assert await journal_of(store, turn) == []


async def test_an_idempotency_key_is_free_again_after_a_day(store, clock):
    """By then nobody sends the request again."""
    first, second = Reservation("body", "resp_1"), Reservation("body", "resp_2")
    assert await store.reserve(TENANT, "key", first) == first
    clock.now += DAY_S - 1
    assert await store.reserve(TENANT, "key", second) == first
    clock.now += 1
    assert await store.reserve(TENANT, "key", second) == second


async def test_an_abandoned_turn_frees_its_line_with_its_record(store, clock, turn):
    """A day after its deadline nothing is left to claim."""
    clock.now += 600 + DAY_S
    other = ids.new_response(ids.conversation_of(turn))
    assert (await store.load(TENANT, ids.conversation_of(turn))).active == turn
    assert await store.begin(a_begin(other)) == Reply(Verdict.OK, value=2)


async def test_a_tombstone_is_forgotten_after_a_day(store, clock, turn):
    """By then every late writer has given up; the turn is absent for good."""
    await store.delete(TENANT, ids.conversation_of(turn))
    clock.now += DAY_S - 1
    assert await store.note([a_note(turn, 2, [3])]) == [Reply(Verdict.GONE)]
    clock.now += 1
    assert await store.note([a_note(turn, 2, [3])]) == [Reply(Verdict.ABSENT)]


async def test_reading_what_nobody_made_keeps_nothing(store):
    """A stranger's guesses do not fill the memory."""
    for _ in range(100):
        with pytest.raises(NotFoundError):
            await store.load(TENANT, ids.new_conversation())
    assert store._roots == {}


async def test_an_index_entry_lives_a_day(clock):
    """As long as in Redis."""
    index = MemoryIdIndex(clock=clock)
    await index.put(b"k", Sampled([1]))
    clock.now += DAY_S - 1
    assert await index.get([b"k"]) == [Sampled([1])]
    clock.now += 1
    assert await index.get([b"k"]) == [None]


async def test_a_full_index_forgets_what_was_not_used():
    """Least recently used goes first; reading counts as use."""
    index = MemoryIdIndex(max_entries=2)
    await index.put(b"a", Sampled([1]))
    await index.put(b"b", Sampled([2]))
    await index.get([b"a"])
    await index.put(b"c", Sampled([3]))
    assert await index.get([b"a", b"b", b"c"]) == [Sampled([1]), None, Sampled([3])]
