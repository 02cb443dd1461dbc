"""What only the queue in Redis can get wrong: keys left behind, lost replies, a lost consumer, a server in trouble."""

from __future__ import annotations

import asyncio

import pytest

from cluster.errors import StoreUnavailableError
from services.conversations.queueing import Ref
from services.conversations.redis_link import RedisLink
from services.queue.base import Dead, Done, Retry
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND, DUE_SHARDS, class_prefix, due_key
from services.queue.redis_queue import RedisQueue
from tests.support.jobs import a_turn, drain, fill, tenants_of, turns_of
from tests.support.lossy import LossyRedis
from tests.support.turns import TENANT

pytestmark = pytest.mark.valkey
PREFIX = class_prefix(BACKGROUND)
STREAM = f"{PREFIX}in:{TENANT}"
WEEK_S = 7 * 86_400


@pytest.fixture
async def link(plain_valkey):
    made = RedisLink(plain_valkey.url)
    yield made
    await made.close()
    plain_valkey.flush()


@pytest.fixture
def queue(link):
    return RedisQueue(link, BACKGROUND)


@pytest.fixture
def redis(plain_valkey):
    with plain_valkey.client() as client:
        yield client


@pytest.fixture
async def lossy(plain_valkey):
    """Every command is executed twice, and the second reply counts."""
    made = RedisLink(LossyRedis.from_url(plain_valkey.url))
    yield RedisQueue(made, BACKGROUND)
    await made.close()


def age(redis, entry, *, idle_s):
    """Let it look as if nobody had heard of the entry's consumer for so long."""
    redis.xclaim(STREAM, "g", entry.consumer, 0, [entry.id], idle=idle_s * 1000, justid=True)
    redis.zadd(PREFIX + "work", {TENANT: 0})


def consumers(redis):
    """Those that the tenant's stream knows."""
    return [each["name"] for each in redis.xinfo_consumers(STREAM, "g")]


async def test_tenants_that_are_done_leave_nothing_behind(queue, redis):
    """Whether their jobs were done at once, later, by another consumer, or were dropped."""
    tenants = [f"t-{number}" for number in range(300)]
    await fill(queue, dict.fromkeys(tenants, 2))
    await drain(queue, settle=lambda entry: Retry(0.0) if entry.attempt == 1 else Done())
    await queue.promote_due(limit=200)
    await queue.take_many("lost", 100)
    for entry in await queue.reclaim("c", idle_s=0, limit=50):
        await queue.settle(entry, Done())
    for key in redis.hkeys(PREFIX + "jobs"):
        await queue.drop(*key.decode().split(":"))
    assert redis.keys("*") == []


async def test_a_tenant_that_waits_no_more_owes_nothing_once_the_ring_has_passed(queue, redis):
    """What it has used up is kept while it lies ahead of the ring's time, and no longer."""
    await fill(queue, {"busy": 3})
    await fill(queue, {"once": 1})
    await queue.take_many("c", 2)
    assert redis.zrange(PREFIX + "rest", 0, -1) == [b"once"]
    await queue.take("c")
    assert redis.exists(PREFIX + "rest") == 0


async def test_dropping_the_last_that_waits_takes_its_stream_away(queue, redis):
    """Also where another job of the tenant was in work before."""
    await fill(queue, {"other": 1})
    _, second = (await fill(queue, {TENANT: 2}))[TENANT]
    await queue.settle(await queue.take("c"), Done())
    await queue.drop(TENANT, second)
    assert [key for key in redis.keys("*") if key in (STREAM.encode(), f"{PREFIX}work".encode())] == []
    assert (await queue.lag()).tenants == 1


async def test_a_stream_knows_consumers_only_while_they_have_work_of_it(queue, redis):
    """Dispatchers come and go under new names for years, and a tenant may never stop waiting."""
    await fill(queue, {TENANT: 5})
    first, _ = await queue.take_many("one", 2)
    other = await queue.take("two")
    await queue.settle(other, Done())
    assert consumers(redis) == [b"one"]
    await queue.settle(first, Retry(3600))
    assert consumers(redis) == [b"one"]
    await queue.reclaim("three", idle_s=0)
    assert consumers(redis) == [b"three"]


async def test_what_is_extended_is_not_reclaimed(queue, redis):
    """A turn may take minutes; what was not heard of is another's, although its consumer lives."""
    turns = (await fill(queue, {TENANT: 2}))[TENANT]
    kept, lost = await queue.take_many("alive", 2)
    for entry in (kept, lost):
        age(redis, entry, idle_s=40)
    await queue.extend([kept])
    assert turns_of(await queue.reclaim("c", idle_s=30)) == turns[1:]
    assert await queue.extend([kept, lost]) == [lost]


async def test_a_tenant_is_looked_at_again_soon_after_it_was_found_well(queue, redis):
    """A quarter of the time later at most, for the next of its consumers may be lost at any moment."""
    await fill(queue, {TENANT: 2})
    entry, _ = await queue.take_many("c", 2)
    redis.zadd(PREFIX + "work", {TENANT: 0})
    assert await queue.reclaim("d", idle_s=40) == []
    now_s = redis.time()[0]
    assert now_s - 31 <= redis.zscore(PREFIX + "work", TENANT) / 1000 <= now_s - 29
    await queue.settle(entry, Done())


async def test_a_tenant_without_work_is_looked_at_no_more(queue, redis):
    """All that it has waits."""
    await fill(queue, {TENANT: 2})
    await queue.settle(await queue.take("c"), Done())
    redis.zadd(PREFIX + "work", {TENANT: 0})
    await queue.reclaim("c")
    assert redis.exists(PREFIX + "work") == 0


async def test_the_oldest_is_the_first_that_waits(queue, redis):
    """Not one that is in work; and the first of a tenant knows since when it waits."""
    turns = await fill(queue, {"a": 1, "b": 1, "c": 1})
    await asyncio.sleep(0.01)
    turns |= await fill(queue, {"a": 1})
    assert (await queue.lag()).oldest_s >= 0.01
    await queue.take_many("c", 3)
    entry_id = redis.hget(PREFIX + "jobs", f"a:{turns['a'][0]}").partition(b"-")[0]
    assert redis.zrange(PREFIX + "oldest", 0, -1, withscores=True) == [(b"a", float(entry_id))]


async def test_lost_replies_double_nothing(lossy, queue):
    """Published once, extended, settled, delayed, buried and replayed once."""
    first, second = (await fill(lossy, {TENANT: 2}))[TENANT]
    assert (await queue.lag()).waiting == 2
    entry = await queue.take("c")
    assert await lossy.extend([entry]) == []
    await lossy.settle(entry, Retry(0.0))
    assert await lossy.promote_due() == 0  # the reply of the second run; the first did it
    retried = await queue.take_many("c", 2)
    assert turns_of(retried) == [second, first]
    for entry in retried:
        await lossy.settle(entry, Dead("no"))
    assert {letter.ref.turn for letter in await lossy.dead()} == {first, second}
    await lossy.replay([Ref(TENANT, first), Ref(TENANT, second)])
    assert turns_of(await drain(queue)) == [first, second]


async def test_a_job_whose_taking_was_never_heard_of_comes_back(lossy, queue):
    """The consumer has another, and lives, but nobody extends what it does not know."""
    first, second = (await fill(queue, {TENANT: 2}))[TENANT]
    assert (await lossy.take("c")).turn == second
    assert turns_of(await queue.reclaim("c", idle_s=0, limit=1)) == [first]


async def test_a_stream_deleted_by_hand_holds_nobody_up(queue, redis):
    """The ring passes its tenant over, work on it ends quietly, and its turns can be queued again."""
    turns = (await fill(queue, {TENANT: 2}))[TENANT]
    entry = await queue.take("c")
    await fill(queue, {"z": 1})
    redis.delete(STREAM)
    assert tenants_of(await queue.take_many("c", 5)) == ["z"]
    await queue.settle(entry, Done())
    redis.zadd(PREFIX + "work", {TENANT: 0})
    assert tenants_of(await queue.reclaim("c", idle_s=0)) == ["z"]
    for turn in turns:
        await queue.publish(TENANT, turn)
    assert turns_of(await queue.take_many("c", 5)) == turns
    assert await queue.largest(1) == (await queue.largest(2))[:1]


async def test_dead_letters_last_a_week(queue, redis):
    """Each is gone a week after its death, also where new ones keep the list alive."""
    await fill(queue, {TENANT: 2})
    await queue.settle(await queue.take("c"), Dead("old"))
    (old,) = await queue.dead()
    redis.zadd(PREFIX + "dead", {str(old.ref): old.died_ms - WEEK_S * 1000 - 1000})
    await queue.settle(await queue.take("c"), Dead("new"))
    assert [letter.reason for letter in await queue.dead()] == ["new"]
    assert redis.hlen(PREFIX + "graves") == 1
    for key in ("dead", "graves"):
        assert redis.ttl(PREFIX + key) == pytest.approx(WEEK_S, abs=30)


async def test_there_are_only_so_many_dead_letters(queue, redis, monkeypatch):
    """A store that refuses to evict must not be filled by failures; the oldest goes first."""
    monkeypatch.setattr("services.queue.redis_queue.MAX_DEAD", 2)
    turns = (await fill(queue, {TENANT: 4}))[TENANT]
    for age_s, entry in zip([40, 30, 20, 10], await queue.take_many("c", 4), strict=True):
        await queue.settle(entry, Dead("no"))
        redis.zincrby(PREFIX + "dead", -1000 * age_s, f"{TENANT}:{entry.turn}")
    assert {letter.ref.turn for letter in await queue.dead()} == set(turns[2:])


async def test_many_dead_letters_are_read_in_pages(queue, monkeypatch):
    """The letters of one tenant are found behind pages of another's."""
    monkeypatch.setattr("services.queue.redis_queue.MAX_BATCH", 3)
    turns = await fill(queue, {"a": 8, "b": 2})
    await drain(queue, settle=lambda _: Dead("no"))
    assert {letter.ref.turn for letter in await queue.dead(tenant="b")} == set(turns["b"])
    assert len(await queue.dead(limit=7)) == 7
    assert len(await queue.dead()) == 10


async def test_a_server_out_of_memory_still_empties_its_queue(queue, redis):
    """Nothing new comes in, and what is there can be taken and ended: that is the way out."""
    await fill(queue, {TENANT: 3})
    redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailableError):
            await queue.publish(TENANT, a_turn())
        for verdict in (Done(), Retry(0.0), Dead("no")):
            await queue.settle(await queue.take("c"), verdict)
    finally:
        redis.config_set("maxmemory", "0")
    lag = await queue.lag()
    assert (lag.waiting, lag.working, lag.delayed, lag.dead) == (0, 0, 1, 1)


async def test_a_backlog_of_one_tenant_holds_nobody_up(queue):
    """10,000 jobs queued, two others arrive, and their jobs begin within two rounds of the three."""
    for _ in range(100):
        await asyncio.gather(*(queue.publish("big", a_turn()) for _ in range(100)))
    await queue.take_many("c", 40)
    await fill(queue, {"b": 3, "c": 3})
    assert set(tenants_of(await queue.take_many("c", 6))) == {"big", "b", "c"}
    assert (await queue.lag()).waiting == 10_000 - 40


async def test_what_is_due_lies_in_all_shards_and_leaves_none_behind(link, redis):
    """No node of a cluster carries all of it."""
    due = RedisDueIndex(link)
    turns = [a_turn() for _ in range(300)]
    for turn in turns:
        await due.add(TENANT, turn, in_s=60)
    assert sorted(redis.keys("*")) == sorted(due_key(shard).encode() for shard in range(DUE_SHARDS))
    for turn in turns:
        await due.remove(TENANT, turn)
    assert redis.keys("*") == []


async def test_what_is_due_on_servers_that_answer_is_found_though_others_do_not(link, plain_valkey, redis):
    """A dead node of a Cluster hides no turn but its own."""
    due = RedisDueIndex(link)
    for _ in range(300):
        await due.add(TENANT, a_turn(), in_s=-1)

    class HalfAway(RedisLink):
        calls = 0

        async def call(self, *args, **options):
            self.calls += 1
            if self.calls % 2:
                raise StoreUnavailableError("away", retry_after_s=1.0)
            return await super().call(*args, **options)

    half = HalfAway(plain_valkey.url)
    found = await RedisDueIndex(half).look(limit=1600, hide_s=60.0)
    await half.close()
    assert len(found) == sum(redis.zcard(due_key(shard)) for shard in range(1, DUE_SHARDS, 2))
    assert len(found) + len(await due.look(limit=1600)) == 300
