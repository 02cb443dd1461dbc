"""What every timed set promises: the earliest time asked for counts, lookers share the work, and a bound holds."""

from __future__ import annotations

import time

import pytest

from services.conversations.timed_set import MemoryTimedSet, RedisTimedSet
from tests.support.stores import ALSO_TWICE

DUE_S = -1.0
LIMITS = {"limit": 100, "hide_s": 0.0}
KEY = "c1:timed"


@pytest.fixture
def timed(link):
    """Without a bound; it expires, as what a test leaves behind must."""
    return MemoryTimedSet() if link is None else RedisTimedSet(link, KEY, ttl_s=60)


@pytest.fixture
def bounded(link):
    """Three members at most."""
    return MemoryTimedSet(most=3) if link is None else RedisTimedSet(link, KEY, most=3, ttl_s=60)


async def test_members_are_found_when_their_time_has_come(timed):
    """The longest due first."""
    for number, name in enumerate(("c", "a", "b")):
        await timed.add(name, in_s=DUE_S - number)
    await timed.add("later", in_s=60)
    assert list(await timed.look(**LIMITS)) == ["b", "a", "c"]


@ALSO_TWICE
async def test_adding_keeps_an_earlier_time_and_moving_does_not(timed):
    """Whoever adds may know less than who added before."""
    await timed.add("a", in_s=DUE_S)
    await timed.add("a", in_s=60)
    assert list(await timed.look(**LIMITS)) == ["a"]
    await timed.move("a", in_s=60)
    assert list(await timed.look(**LIMITS)) == []
    await timed.move("b", in_s=DUE_S)
    assert list(await timed.look(**LIMITS)) == ["b"]


@ALSO_TWICE
async def test_a_removed_member_is_not_found(timed):
    """Removing it again changes nothing."""
    await timed.add("a", in_s=DUE_S)
    for _ in range(2):
        await timed.remove("a")
    assert list(await timed.look(**LIMITS)) == []


@ALSO_TWICE
async def test_times_are_told_by_the_clock_that_decides(timed):
    """It moves on, and is the world's."""
    first = await timed.now_ms()
    assert first <= await timed.now_ms()
    assert abs(first - time.time() * 1000) < 60_000


@ALSO_TWICE
async def test_in_a_bounded_set_those_to_be_looked_at_last_are_given_up(bounded):
    """As many as are too many, and never the new one."""
    for number, name in enumerate("abcd"):
        await bounded.add(name, in_s=DUE_S - number)
    await bounded.add("new", in_s=0)
    assert sorted(await bounded.look(**LIMITS)) == ["c", "d", "new"]


@ALSO_TWICE
async def test_moving_keeps_the_bound_too(bounded):
    """It may add a member that was given up meanwhile."""
    for name in "abcde":
        await bounded.move(name, in_s=DUE_S)
    assert len(await bounded.look(**LIMITS)) == 3
