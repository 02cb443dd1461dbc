"""What only a server can show of a timed set: who looks finds nothing twice, and it is no key that stays."""

from __future__ import annotations

import pytest

from services.conversations.redis_link import RedisLink
from services.conversations.timed_set import RedisTimedSet

KEY = "c1:timed"
LOOK = {"limit": 4, "hide_s": 60.0}


@pytest.fixture
async def link(real_server):
    made = RedisLink(real_server.user_url)
    yield made
    await made.close()


async def test_two_lookers_share_what_is_due(link):
    """And find all of it."""
    timed = [RedisTimedSet(link, KEY, ttl_s=60) for _ in range(2)]
    for name in "abcdef":
        await timed[0].add(name, in_s=-1)
    found = [*await timed[0].look(**LOOK), *await timed[1].look(**LOOK)]
    assert sorted(found) == list("abcdef")


async def test_how_many_were_given_up_is_told(link):
    """Their maker may want to say so."""
    timed = RedisTimedSet(link, KEY, most=2, ttl_s=60)
    assert [await timed.add(name, in_s=0) for name in "abcd"] == [0, 0, 1, 1]


async def test_a_set_expires_when_nothing_is_added_or_moved(link, real_server):
    """Its time begins anew with each; a look leaves it as it is."""
    lasting, timed = RedisTimedSet(link, KEY), RedisTimedSet(link, KEY, ttl_s=60)
    for change in (timed.add, timed.move):
        await lasting.add("a", in_s=-1)
        assert real_server.keys_without_ttl() == [KEY]
        await change("a", in_s=-1)
        assert await timed.look(**LOOK) == ["a"]
        assert real_server.keys_without_ttl() == []
        await timed.remove("a")
