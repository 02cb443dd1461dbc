"""How long each key lives in Redis, and what the store says once one is gone."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from services.conversations import ids
from services.conversations.keys import MAIN_LINE, Keys
from services.conversations.records import Item, TurnState
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.scripts import lines
from services.conversations.store import Fork, Reply, Tail, Verdict
from tests.support.turns import TENANT, a_begin, a_commit, a_note, journal_of

pytestmark = pytest.mark.valkey
HISTORY_TTL_S = 5000
DAY_S = 86_400
LONG_S = 60 * DAY_S


@pytest.fixture
async def store(plain_valkey):
    made = RedisConversationStore(plain_valkey.url, history_ttl_s=HISTORY_TTL_S)
    yield made
    await made.close()
    leaked = plain_valkey.keys_without_ttl()
    plain_valkey.flush()
    assert leaked == []


@pytest.fixture
def redis(plain_valkey):
    with plain_valkey.client() as client:
        yield client


@pytest.fixture
async def turn(store):
    made = await store.create(TENANT, metadata={})
    name = ids.new_response(made.id)
    await store.begin(a_begin(name, deadline_s=600.0))
    await store.note([a_note(name, 0, [1, 2]), a_note(name, 2, [3])])
    return name


async def test_a_running_turn_outlives_its_deadline(redis, turn):
    """The record by a day, the journal by an hour."""
    keys, part = Keys.of_turn(TENANT, turn)
    assert redis.ttl(keys.turn(part)) == pytest.approx(600 + DAY_S, abs=30)
    assert redis.ttl(keys.journal(part)) == pytest.approx(600 + 3600, abs=30)


async def test_a_committed_turn_lives_as_long_as_history(store, redis, turn):
    """All but the journal, whose ids are in the record now."""
    await store.commit(a_commit(turn))
    keys, part = Keys.of_turn(TENANT, turn)
    for key in [keys.line(), keys.items(), keys.turn(part)]:
        assert redis.ttl(key) == pytest.approx(HISTORY_TTL_S, abs=30)
    assert redis.exists(keys.journal(part)) == 0


async def test_what_branches_share_lives_as_long_as_the_last_of_them(store, redis, turn):
    """One with a short time of its own takes nothing from the others."""
    root = ids.conversation_of(turn)
    keys, _ = Keys.of_turn(TENANT, turn)
    shared, branch = [keys.item, keys.index], ids.new_response(root)
    await store.commit(a_commit(turn))
    for key in shared:
        redis.expire(key, LONG_S)
    await store.begin(a_begin(branch, new_line=True, line="branch", fork=Fork(MAIN_LINE, ""), ttl_s=50))
    await store.commit(a_commit(branch, line="branch"))
    assert [redis.ttl(key) for key in shared] == [pytest.approx(LONG_S, abs=30)] * 2
    assert redis.ttl(keys.line()) == pytest.approx(HISTORY_TTL_S, abs=30)
    assert [redis.ttl(key) for key in (keys.line("branch"), keys.items("branch"))] == [pytest.approx(50, abs=30)] * 2


async def test_begin_renews_the_history(store, redis, turn):
    """A conversation that is used does not expire in use, nor before a turn that may be taken over later."""
    await store.commit(a_commit(turn))
    keys, _ = Keys.of_turn(TENANT, turn)
    for key in [keys.line(), keys.items(), keys.item, keys.index]:
        redis.expire(key, 50)
    await store.begin(a_begin(ids.new_response(ids.conversation_of(turn)), base_version=1))
    for key in [keys.line(), keys.items(), keys.item, keys.index]:
        assert redis.ttl(key) == pytest.approx(600 + DAY_S, abs=30)


CHANGES = {
    "append": lambda store, name, _: store.append_items(TENANT, name, [Item(id="", role="user", text="x")]),
    "delete": lambda store, name, item: store.delete_item(TENANT, name, item),
    "metadata": lambda store, name, _: store.set_metadata(TENANT, name, {}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_renews_the_history(store, redis, turn, change):
    """A conversation that its caller works on does not expire meanwhile; a deletion's mark lasts a day."""
    await store.commit(a_commit(turn))
    keys, _ = Keys.of_turn(TENANT, turn)
    names = [keys.line(), keys.items(), keys.item, keys.index]
    for key in names:
        redis.expire(key, 50)
    item = (await store.load(TENANT, ids.conversation_of(turn))).items[0]
    await change(store, ids.conversation_of(turn), item.id)
    for key in names:
        assert redis.ttl(key) == pytest.approx(HISTORY_TTL_S, abs=30)
    assert redis.ttl(keys.gone) == (pytest.approx(DAY_S, abs=30) if redis.exists(keys.gone) else -2)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_line_of_its_own_time_keeps_it(store, redis, turn, change):
    """Whoever commits or changes it need not know whose it is: its last begin has said."""
    root = ids.conversation_of(turn)
    await store.commit(a_commit(turn))
    later = ids.new_response(root)
    await store.begin(a_begin(later, base_version=1, ttl_s=LONG_S))
    keys, part = Keys.of_turn(TENANT, later)
    assert redis.ttl(keys.line()) == pytest.approx(LONG_S, abs=30)
    names = [keys.line(), keys.items(), keys.item, keys.index]
    item = (await store.load(TENANT, root)).items[0].id
    for step in (store.commit(a_commit(later, base_version=1)), change(store, root, item)):
        for key in names:
            redis.expire(key, 50)
        await step
        assert [redis.ttl(key) for key in names] == [pytest.approx(LONG_S, abs=30)] * 4
    assert redis.ttl(keys.turn(part)) == pytest.approx(LONG_S, abs=30)


async def test_metadata_takes_no_time_from_a_line_that_a_turn_holds(store, redis):
    """A turn may wait for longer than history lives, and whoever takes it over must still find its line."""
    made = await store.create(TENANT, metadata={})
    await store.begin(a_begin(ids.new_response(made.id), deadline_s=600.0, state=TurnState.QUEUED))
    await store.set_metadata(TENANT, made.id, {"k": "v"})
    assert redis.ttl(Keys.of_conversation(TENANT, made.id).line()) == pytest.approx(600 + DAY_S, abs=30)


async def test_the_last_begin_says_how_long_a_line_lives(store, redis):
    """What its maker said holds until then; a begin that says nothing gives it the store's time again."""
    made = await store.create(TENANT, metadata={}, ttl_s=LONG_S)
    line = Keys.of_conversation(TENANT, made.id).line()
    lives = [redis.ttl(line)]
    for version, ttl_s in enumerate([None, 2 * LONG_S]):
        turn = ids.new_response(made.id)
        await store.begin(a_begin(turn, base_version=version, ttl_s=ttl_s))
        await store.commit(a_commit(turn, base_version=version))
        lives.append(redis.ttl(line))
    assert lives == [pytest.approx(life, abs=30) for life in (LONG_S, HISTORY_TTL_S, 2 * LONG_S)]


async def test_a_turn_that_is_cancelled_unbegun_lives_as_long_as_its_line(store, redis):
    """By the line's own time where it has one."""
    made = await store.create(TENANT, metadata={})
    turn = ids.new_response(made.id)
    await store.begin(a_begin(turn, state=TurnState.QUEUED, ttl_s=LONG_S))
    await store.cancel(TENANT, turn)
    keys, part = Keys.of_turn(TENANT, turn)
    assert redis.ttl(keys.turn(part)) == pytest.approx(LONG_S, abs=30)


async def test_items_change_once_the_active_record_is_gone(store, redis, turn):
    """A crash, then the record's end: the conversation is its caller's again, not the lost turn's."""
    keys, part = Keys.of_turn(TENANT, turn)
    redis.delete(keys.turn(part))
    await store.append_items(TENANT, ids.conversation_of(turn), [Item(id="", role="user", text="x")])
    assert await store.commit(a_commit(turn)) == Reply(Verdict.ABSENT)
    assert len((await store.load(TENANT, ids.conversation_of(turn))).items) == 1


async def test_a_tombstone_lasts_a_day(store, redis, turn):
    """Longer than any late writer."""
    await store.delete(TENANT, ids.conversation_of(turn))
    assert redis.ttl(Keys.of_turn(TENANT, turn)[0].gone) == pytest.approx(DAY_S, abs=30)


async def test_a_line_whose_active_record_is_gone_is_free(store, redis, turn):
    """A crash, then the record's end: nobody could claim it any more, and the conversation must go on."""
    keys, part = Keys.of_turn(TENANT, turn)
    redis.delete(keys.turn(part))
    assert await store.commit(a_commit(turn)) == Reply(Verdict.ABSENT)
    other = ids.new_response(ids.conversation_of(turn))
    assert await store.begin(a_begin(other)) == Reply(Verdict.OK, value=2)
    assert (await store.load(TENANT, ids.conversation_of(turn))).active == other


async def test_a_turn_whose_record_was_lost_begins_again_under_its_id(store, redis, turn):
    """After a failover that lost the record the owner starts over and sends its ids from 0."""
    keys, part = Keys.of_turn(TENANT, turn)
    redis.delete(keys.turn(part), keys.journal(part))
    assert await store.begin(a_begin(turn)) == Reply(Verdict.OK, value=2)
    assert await store.note([a_note(turn, 0, [1, 2, 3, 4])]) == [Reply(Verdict.OK, value=4)]


async def test_a_turn_whose_line_expired_cannot_commit(store, redis, turn):
    """A history that is over is not begun anew by a late answer."""
    keys, _ = Keys.of_turn(TENANT, turn)
    redis.delete(keys.line(), keys.items(), keys.item, keys.index)
    assert await store.commit(a_commit(turn)) == Reply(Verdict.ABSENT)
    assert redis.exists(keys.line(), keys.items(), keys.item, keys.index) == 0


async def test_an_expired_journal_is_empty(store, redis, turn):
    """The answer is in the record by then."""
    keys, part = Keys.of_turn(TENANT, turn)
    redis.delete(keys.journal(part))
    assert await journal_of(store, turn) == []


async def test_a_journal_with_a_hole_is_refused(store, redis, turn):
    """Ids of two places are never spliced in silence."""
    keys, part = Keys.of_turn(TENANT, turn)
    redis.xdel(keys.journal(part), "2-0")
    (found,) = await store.tail([Tail(TENANT, turn)])
    assert (found.state, found.ids, found.is_broken) == (TurnState.RUNNING, (), True)


@pytest.fixture
def long_history(redis, turn):
    """2,501 turns that have not ended."""
    keys, part = Keys.of_turn(TENANT, turn)
    record = redis.dump(keys.turn(part))
    for number in range(2500):
        redis.restore(keys.turn(str(number)), 100_000, record)
    redis.sadd(keys.index, *(f"turn:{number}" for number in range(2500)))
    return ids.conversation_of(turn)


async def test_a_long_history_is_erased_in_slices(store, redis, long_history):
    """No slice holds the server up, and none is forgotten."""
    await store.delete(TENANT, long_history)
    assert redis.keys("*") == [Keys.of_conversation(TENANT, long_history).gone.encode()]


async def test_the_turns_of_a_long_history_are_found_in_slices(plain_valkey, long_history):
    """Each slice has the time of a call, so that no history is too long to be erased."""

    class Counted(RedisLink):
        calls = 0

        async def call(self, *args, **options):
            self.calls += 1
            return await super().call(*args, **options)

    link = Counted(plain_valkey.url)
    found = await RedisConversationStore(link).pointed_turns(TENANT, long_history)
    await link.close()
    assert (len(found), len(set(found))) == (2501, 2501)
    assert link.calls > 1


async def test_an_erasure_that_was_cut_short_is_finished_by_the_next(store, plain_valkey, redis, turn):
    """The conversation is unreadable at once, and the index keeps what is still to be deleted."""
    keys, _ = Keys.of_turn(TENANT, turn)
    async with Redis.from_url(plain_valkey.url) as client:
        await lines.ERASE.run(client, [keys.gone, keys.line(), keys.items(), keys.item, keys.index], [DAY_S, "one"])
    await store.delete(TENANT, ids.conversation_of(turn))
    assert redis.keys("*") == [keys.gone.encode()]


async def test_a_server_that_forgot_its_scripts_is_taught_again(store, redis, turn):
    """A failover or a restart costs one more round trip, for single calls and for pipelines."""
    redis.script_flush()
    assert await store.note([a_note(turn, 3, [4]), a_note(turn, 4, [5])]) == [
        Reply(Verdict.OK, value=4),
        Reply(Verdict.OK, value=5),
    ]
    redis.script_flush()
    assert (await store.load(TENANT, ids.conversation_of(turn))).active == turn
