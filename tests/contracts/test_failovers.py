"""The death and the sleep of servers that have others to take over: bounded errors, then service again by itself.

Replication is not awaited, so a failover may lose the newest writes: never half of one, and never silently (the owner
of a lost turn hears ABSENT or LOST). These tests write again until it is taken, and then compare.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial

import pytest

from cluster.errors import StoreUnavailableError
from services.conversations import ids
from services.conversations.redis_checks import check_store
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Tail, Verdict
from services.ports import unused_port
from services.tenants.redis_keys import RedisKeyStore
from tests.support.sentinel import running_sentinel
from tests.support.store_cluster import running_cluster
from tests.support.turns import TENANT, a_begin, a_commit, a_note, journal_of
from tests.support.valkey import PASSWORD, REDIS, USER, VALKEY
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.valkey, pytest.mark.heavy]

on_redis = [pytest.mark.heavy, pytest.mark.skipif(not REDIS, reason="no redis-server on PATH")]
BINARIES = [pytest.param(VALKEY, id="valkey"), pytest.param(REDIS, id="redis", marks=on_redis)]
BOUNDED_S = 4.0  # less than two on a machine with time for us; the library's own patience would be 55
TAKEN_OVER_S = 20.0  # of which the servers need 1 to 3 to agree on a death


@pytest.fixture(params=BINARIES)
def watched(request):
    with running_sentinel(request.param) as servers:
        yield servers


@pytest.fixture(params=BINARIES)
def cluster(request):
    with running_cluster(replicas=3, binary=request.param) as servers:
        yield servers


@pytest.fixture
async def link(request):
    server = request.getfixturevalue("watched" if "watched" in request.fixturenames else "cluster")
    made = RedisLink(server.user_url)
    yield made
    await made.close()


@pytest.fixture
def store(link):
    return RedisConversationStore(link)


async def persist(call):
    """The first answer that is none of being away, and how long the longest wait for one was."""
    deadline, longest_s = time.monotonic() + TAKEN_OVER_S, 0.0
    while True:
        begin = time.monotonic()
        try:
            answer = await call()
        except StoreUnavailableError:
            assert time.monotonic() < deadline, "nobody took over"
            longest_s = max(longest_s, time.monotonic() - begin)
            await asyncio.sleep(0.05)
        else:
            return answer, longest_s


async def whole_turn(store, conversation, version=0):
    """Begin, two notes and a commit, each until it is taken."""
    turn = ids.new_response(conversation)
    begin = a_begin(turn, base_version=version)
    assert (await persist(lambda: store.begin(begin)))[0].verdict is Verdict.OK
    for start in (0, 1):
        (reply,), _ = await persist(lambda start=start: store.note([a_note(turn, start, [start])]))
        assert reply.verdict is Verdict.OK
    commit = a_commit(turn, base_version=version)
    reply, _ = await persist(lambda: store.commit(commit))
    assert reply.verdict in {Verdict.OK, Verdict.DONE}
    return commit


def replicated(*servers):
    """Wait until the replica of each server has all that was written so far: that much will not be lost."""
    for server in servers:
        with server.client() as client:
            wait_until(partial(has_all, client, client.info("replication")["master_repl_offset"]), what="replication")


def has_all(client, written):
    """Whether the replica has acknowledged so many bytes."""
    return client.info("replication")["slave0"]["offset"] >= written


async def check_served(store, made):
    """What was committed before is there, and a further turn of each conversation is taken."""
    for conversation, commit in made.items():
        line, _ = await persist(lambda conversation=conversation: store.load(TENANT, conversation))
        assert (line.version, line.active, line.items) == (1, "", commit.items)
        await whole_turn(store, conversation, version=1)
        assert len((await store.load(TENANT, conversation)).items) == 2 * len(commit.items)


async def conversations(store, count):
    """Conversations with one turn each, by id."""
    made = [(await persist(lambda: store.create(TENANT, metadata={})))[0] for _ in range(count)]
    return {one.id: await whole_turn(store, one.id) for one in made}


async def test_a_sentinels_replica_takes_over_from_a_killed_primary(watched, store, link):
    """Turns and keys go on, and an old primary that comes back is not written to."""
    keys = RedisKeyStore(link)
    key, _ = await keys.create(TENANT, "laptop")
    made = await conversations(store, 3)
    replicated(watched.primary)
    watched.primary.kill()
    await check_served(store, made)
    assert (await keys.find(key.id)).info == key
    watched.primary.start()
    again = await conversations(store, 3)
    with watched.replica.client() as client:
        assert client.info("replication")["role"] == "master"
        assert all(client.exists(f"c1:{{{TENANT}.{ids.conversation_root(name)}}}:line:main") for name in again)


async def test_sentinels_are_asked_as_the_user_that_was_named(watched, monkeypatch):
    """Who may do one thing only; one that is wrong is told at the start."""
    monkeypatch.setenv("SENTINEL_PASSWORD", PASSWORD)
    url = f"{watched.user_url}?sentinel_user={USER}&sentinel_password_env=SENTINEL_PASSWORD"
    assert len(await check_store(url)) == 1
    monkeypatch.setenv("SENTINEL_PASSWORD", "another")
    with pytest.raises(StoreUnavailableError, match=r"mymaster of .*: no Sentinel both lets us in"):
        await check_store(url)


async def test_a_master_that_no_sentinel_knows_is_told_at_the_start(watched):
    """Most often it is misspelt."""
    with pytest.raises(StoreUnavailableError, match=r"other of .*: no Sentinel both lets us in"):
        await check_store(watched.user_url.replace("mymaster", "other"))


async def test_a_frozen_primary_of_sentinels_is_left_and_not_believed_when_it_wakes(watched, store):
    """Each attempt ends soon; after the takeover nothing reads or writes the sleeper."""
    made = await conversations(store, 3)
    replicated(watched.primary)
    with watched.primary.stopped():
        _, longest_s = await persist(lambda: store.create(TENANT, metadata={}))
        assert longest_s < BOUNDED_S
        await check_served(store, made)
    for conversation in made:
        assert (await persist(lambda name=conversation: store.load(TENANT, name)))[0].version == 2


async def test_a_clusters_replica_takes_over_from_a_killed_primary(cluster, store, link):
    """The other slots are served meanwhile, and all of them after."""
    keys = RedisKeyStore(link)
    key, _ = await keys.create(TENANT, "laptop")
    made = await conversations(store, 9)
    replicated(*cluster.primaries)
    cluster.primaries[1].kill()
    await check_served(store, made)
    assert (await persist(lambda: keys.find(key.id)))[0].info == key


async def test_a_frozen_primary_of_a_cluster_is_left(cluster, store):
    """The many notes of one flush end soon, and those whose servers live are taken at once."""
    made = await conversations(store, 9)
    turns = [ids.new_response(name) for name in made]
    for turn in turns:
        await store.begin(a_begin(turn, base_version=1))
    replicated(*cluster.primaries)
    with cluster.primaries[1].stopped():
        begin = time.monotonic()
        first = await noted(store, turns)
        assert time.monotonic() - begin < 2 * BOUNDED_S
        assert Verdict.OK in first.values()
        silent = [turn for turn, verdict in first.items() if verdict is Verdict.AWAY]
        while silent and Verdict.AWAY in (await noted(store, silent)).values():
            assert time.monotonic() - begin < TAKEN_OVER_S, "nobody took over"
    for turn in turns:
        assert (await persist(lambda turn=turn: journal_of(store, turn)))[0] == [1, 2]


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_of_a_cluster_that_lost_a_primary_for_good_the_others_are_heard(end):
    """Round after round, though nobody takes over: by who writes journals and by who reads them."""
    with running_cluster() as cluster:
        store = RedisConversationStore(cluster.user_url)
        turns = [ids.new_response((await store.create(TENANT, metadata={})).id) for _ in range(12)]
        for turn in turns:
            await store.begin(a_begin(turn))
        assert set((await noted(store, turns)).values()) == {Verdict.OK}
        with cluster.primaries[1].stopped() if end == "stopped" else contextlib.nullcontext():
            if end == "killed":
                cluster.primaries[1].kill()
            rounds = [await noted(store, turns) for _ in range(3)]
            looks = await store.tail([Tail(TENANT, turn) for turn in turns])
        assert set(rounds[0].values()) == {Verdict.OK, Verdict.AWAY}
        assert rounds == [rounds[0]] * 3
        assert [look.is_away for look in looks] == [verdict is Verdict.AWAY for verdict in rounds[0].values()]
        assert all(list(look.ids) == [1, 2] for look in looks if not look.is_away)
        await store.close()


async def noted(store, turns):
    """The verdict of the same note for each turn."""
    replies = await store.note([a_note(turn, 0, [1, 2]) for turn in turns])
    return {turn: reply.verdict for turn, reply in zip(turns, replies, strict=True)}


async def test_a_cluster_that_comes_back_at_other_addresses_is_found_by_its_url():
    """As when all its machines were replaced behind a name: the addresses it once told lead nowhere."""
    later = unused_port()
    with running_cluster() as cluster:
        store = RedisConversationStore(f"{cluster.user_url},127.0.0.1:{later}")
        await store.create(TENANT, metadata={})
    with pytest.raises(StoreUnavailableError):
        await store.create(TENANT, metadata={})
    with running_cluster(first_port=later):
        made, _ = await persist(lambda: store.create(TENANT, metadata={}))
        assert await store.conversation(TENANT, made.id) == made
        await store.close()
