"""Every store keeps its promises whatever it is sent, by two owners who lose replies, while a clock goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.conversations.memory_store import MemoryConversationStore
from services.conversations.redis_store import RedisConversationStore
from tests.fakes.fake_clock import FakeClock
from tests.support.lossy import LossyRedis
from tests.support.promises import Promises
from tests.support.store_calls import DRAWS, Scene
from tests.support.valkey import running_valkey

PASSING = st.sampled_from([0.0] * 6 + [1.0, 60.0])  # seconds before a call; the longest ends every lease
DRAWN = st.lists(st.tuples(DRAWS, PASSING), min_size=20, max_size=60)


@pytest.fixture(scope="module")
def cluster():
    with running_valkey(cluster=True) as server:
        yield server


async def play(store, promises, drawn, clock=None):
    """Send every call as often as it was drawn, and judge all answers."""
    for draw, passing_s in drawn:
        if clock is not None:
            promises.now = clock.now = clock.now + passing_s
        step = await promises.scene.prepare(draw, store)
        for _ in range(draw.times):
            promises.heard(step, await promises.scene.send(store, step))
        await promises.check_turn(store, step.turn)
    await promises.check(store)


@settings(max_examples=150)
@given(drawn=DRAWN)
async def test_memory_keeps_its_promises_as_time_goes_on(drawn):
    """Leases end between any two calls."""
    clock = FakeClock(1_000_000.0)
    await play(MemoryConversationStore(clock=clock), Promises(Scene()), drawn, clock)


@pytest.mark.valkey
@settings(max_examples=60)
@given(drawn=DRAWN)
async def test_a_server_keeps_its_promises(cluster, drawn):
    """Leases have run out at once, or live to the end."""
    store = RedisConversationStore(cluster.url)
    try:
        await play(store, Promises(Scene()), drawn)
    finally:
        await store.close()


@pytest.mark.valkey
@settings(max_examples=60)
@given(drawn=DRAWN)
async def test_a_server_whose_every_reply_is_lost_once_keeps_its_promises(cluster, drawn):
    """The library sends each command again, and nobody is told anything else but DONE."""
    store = RedisConversationStore(LossyRedis.from_url(cluster.url))
    try:
        await play(store, Promises(Scene(), repeats=True), drawn)
    finally:
        await store.close()
