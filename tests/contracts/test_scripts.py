"""Running scripts: many calls at once, on servers that do not all know the script."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from services.conversations.redis_link import RedisLink
from services.conversations.scripts import Script, run_many

COUNT = Script("""
-- KEYS 1 counter. ARGV 1 by how much, or 'fail'
redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 60000)
return redis.call('GET', KEYS[1])
""")


@pytest.fixture
async def link(real_server):
    made = RedisLink(real_server.user_url)
    yield made
    await made.close()


def forget_scripts(server):
    """On every node."""
    for node in getattr(server, "primaries", [server]):
        with node.client() as client:
            client.script_flush()


def calls(keys):
    """A count by its own number for each key."""
    return [([f"c1:count:{number}"], [number]) for number in range(keys)]


async def test_many_calls_are_answered_in_their_order(link):
    """However the keys are spread over servers."""
    replies = await link.call(lambda redis: run_many(redis, COUNT, calls(100)))
    assert [int(reply) for reply in replies] == list(range(100))


async def test_a_script_that_is_unknown_is_taught_and_each_call_runs_once(link, real_server):
    """To every server, and only the calls that it refused are sent again."""
    await link.call(lambda redis: run_many(redis, COUNT, calls(100)))
    forget_scripts(real_server)
    replies = await link.call(lambda redis: run_many(redis, COUNT, calls(100)))
    assert [int(reply) for reply in replies] == [2 * number for number in range(100)]


async def test_a_script_known_to_some_servers_only_runs_once_for_each_call(link, real_server):
    """As after a failover in one part of a Cluster."""
    await link.call(lambda redis: run_many(redis, COUNT, calls(100)))
    forget_scripts(getattr(real_server, "primaries", [real_server])[0])
    replies = await link.call(lambda redis: run_many(redis, COUNT, calls(100)))
    assert [int(reply) for reply in replies] == [2 * number for number in range(100)]


async def test_calls_of_one_key_keep_their_order(link, real_server):
    """Also where the script had to be taught."""
    forget_scripts(real_server)
    same = [(["c1:count"], [number]) for number in range(5)]
    replies = await link.call(lambda redis: run_many(redis, COUNT, same))
    assert [int(reply) for reply in replies] == [0, 1, 3, 6, 10]


async def test_the_first_error_is_raised_as_the_server_said_it(link):
    """Without the arguments of the call, which are a user's; the other calls have run."""
    mixed = [*calls(3), (["c1:count:secret"], ["secret"]), *calls(3)]
    with pytest.raises(ResponseError, match="not an integer") as wrong:
        await link.call(lambda redis: run_many(redis, COUNT, mixed))
    assert "secret" not in str(wrong.value)
    assert int(await link.call(lambda redis: redis.get("c1:count:2"))) == 4


async def test_no_calls_are_no_replies(link):
    """And no round trip."""
    assert await link.call(lambda redis: run_many(redis, COUNT, [])) == []
