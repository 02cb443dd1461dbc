"""What is refused and what is warned of before a store is relied on."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.conversations.acl import RULES
from services.conversations.redis_checks import Server, check_store, problem, warnings
from tests.support.store_cluster import running_cluster
from tests.support.valkey import PASSWORD, REDIS, USER, VALKEY, running_valkey

GOOD = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory": 0,
    "maxmemory_policy": "allkeys-lru",
    "aof_enabled": 1,
}

REFUSED = [
    ({"redis_version": "6.2.14"}, "Redis 6.2; it has to be Redis 7.0"),
    ({"redis_version": "7.2.4", "valkey_version": "7.1.0"}, "Valkey 7.1; "),
    ({"redis_version": "unstable"}, "Redis of no version; "),
    ({"cluster_enabled": 1}, "redis+cluster://"),
    ({"role": "slave"}, "name its primary"),
    ({"maxmemory": 1}, "set maxmemory-policy noeviction"),
    ({"maxmemory": 1, "maxmemory_policy": "volatile-ttl"}, "set maxmemory-policy noeviction"),
]
TAKEN = [
    {},
    {"redis_version": "8.0.0"},
    {"redis_version": "7.2.4", "valkey_version": "7.2.0"},
    {"maxmemory": 1, "maxmemory_policy": "noeviction"},
]


on_redis = pytest.mark.skipif(not REDIS, reason="no redis-server on PATH")


@pytest.fixture(scope="module", params=[VALKEY, pytest.param(REDIS, marks=on_redis)], ids=["valkey", "redis"])
def server(request):
    with running_valkey(binary=request.param) as made:
        yield made


@pytest.fixture
def limited(server):
    """A function that takes rights from the product's user for one test."""

    def take(*rules):
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", USER, *rules)

    yield take
    take("reset", "on", f">{PASSWORD}", *RULES.split())


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_a_server_that_would_lose_turns_is_refused(changes, words):
    """With what to do about it."""
    assert words in problem(Server("h:1", GOOD | changes, ""), "single")


@pytest.mark.parametrize("changes", TAKEN)
def test_a_server_that_keeps_what_it_holds_is_taken(changes):
    """An eviction policy means nothing without a limit."""
    assert problem(Server("h:1", GOOD | changes, ""), "single") == ""


def test_a_node_of_a_cluster_is_taken_as_one():
    """It is refused only where it was taken for a server of its own."""
    assert problem(Server("h:1", GOOD | {"cluster_enabled": 1}, ""), "cluster") == ""


@pytest.mark.parametrize(
    ("info", "save", "words"),
    [
        (None, None, ["grant +info +config|get"]),
        (GOOD, "", []),
        (GOOD | {"aof_enabled": 0}, None, ["snapshots cannot be checked"]),
        (GOOD | {"aof_enabled": 0}, "3600 1", ["only writes snapshots"]),
        (GOOD | {"aof_enabled": 0}, "", ["keeps nothing on disk"]),
    ],
)
def test_what_a_crash_would_lose_is_warned_of(info, save, words):
    """One sentence per server at most."""
    found = warnings(Server("h:1", info, save))
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


@pytest.mark.valkey
async def test_a_real_server_is_asked(server):
    """It keeps nothing on disk, which may be meant so."""
    (warning,) = await check_store(server.user_url)
    assert warning.startswith(f"The store at {server.url[7:]} keeps nothing on disk")


@pytest.mark.valkey
async def test_a_real_server_that_evicts_is_refused(server):
    """Until its operator changes that."""
    with server.client() as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigurationError, match=r"\(maxmemory-policy allkeys-lru\)"):
            await check_store(server.user_url)
        client.config_set("maxmemory-policy", "noeviction")
    assert len(await check_store(server.user_url)) == 1


@pytest.mark.valkey
@pytest.mark.parametrize("rule", ["-info", "-config|get"])
async def test_what_may_not_be_asked_is_warned_of(server, limited, rule):
    """With the rights that are missing."""
    limited(rule)
    (warning,) = await check_store(server.user_url)
    assert "cannot be checked" in warning
    assert "+info +config|get" in warning


@pytest.mark.valkey
async def test_a_provider_that_refuses_in_its_own_words_is_warned_of(server, monkeypatch):
    """Not every proxy says what Redis would."""
    execute = Redis.execute_command

    async def proxied(client, *args, **options):
        if args[0] == "CONFIG GET":
            raise ResponseError("CONFIG is disabled on this plan")
        return await execute(client, *args, **options)

    monkeypatch.setattr(Redis, "execute_command", proxied)
    (warning,) = await check_store(server.user_url)
    assert "cannot be checked" in warning


@pytest.mark.valkey
@pytest.mark.parametrize("rules", [["-eval"], ["-time"], ["-@stream"], ["-unlink"], ["resetkeys", "~d*"]])
async def test_a_user_with_too_few_rights_is_refused(server, limited, rules):
    """At the start, not when the first stream is written."""
    limited(*rules)
    with pytest.raises(ConfigurationError, match=r"docs/stores\.md"):
        await check_store(server.user_url)


@pytest.mark.valkey
async def test_the_products_user_may_do_nothing_else(server):
    """Neither other keys nor what stops a server."""
    async with Redis.from_url(server.user_url) as client:
        for command in ("SET d 1", "FLUSHALL", "KEYS *", "CONFIG SET save x", "ACL LIST", "SCAN 0"):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command.split())


@pytest.mark.valkey
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("p%2F", "x"), "invalid username-password pair"),
        (("chatglm:", "nobody:"), "invalid username-password pair"),
        (("/s", "/t"), "No such file"),
    ],
)
async def test_a_store_that_cannot_be_reached_is_named_without_the_password(server, change, words):
    """With the reason that the server or the kernel gave."""
    with pytest.raises(StoreUnavailableError, match=words) as away:
        await check_store(server.user_url.replace(*change))
    assert PASSWORD not in str(away.value)


@pytest.mark.valkey
async def test_every_primary_of_a_cluster_is_asked():
    """One that evicts is enough."""
    with running_cluster() as cluster:
        assert len(await check_store(cluster.user_url)) == 3
        with cluster.primaries[2].client() as client:
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", "volatile-lru")
        with pytest.raises(ConfigurationError, match=f":{cluster.primaries[2].port} would drop"):
            await check_store(cluster.user_url)
        with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
            await check_store(cluster.primaries[0].user_url)
