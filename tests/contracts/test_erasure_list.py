"""What replicas are still to be told, as every store keeps it."""

from __future__ import annotations

import pytest

from cluster.protocol import Label
from services.conversations.erasures import Erasure, Erasures, redis_erasures
from services.conversations.timed_set import MemoryTimedSet
from tests.support.stores import ALSO_TWICE
from tests.support.turns import TENANT

pytestmark = ALSO_TWICE

LABEL = Label(tenant=TENANT, pin_key="0f" * 16)


@pytest.fixture
def erasures(link):
    return Erasures(MemoryTimedSet()) if link is None else redis_erasures(link)


async def told_now(erasures, *, hide_s=0.0):
    """What is to be told."""
    return [one.erasure for one in await erasures.due(limit=10, hide_s=hide_s)]


async def test_what_is_noted_is_told_when_its_time_has_come(erasures):
    """With its age, so that whoever tells it knows whether it was the last time."""
    later = await erasures.note(LABEL, in_s=60)
    assert await told_now(erasures) == []
    await erasures.tell_again(later, in_s=0)
    (due,) = await erasures.due(limit=10, hide_s=0)
    assert (due.erasure, due.erasure.label) == (later, LABEL)
    assert 0 <= due.age_s < 60


async def test_what_is_told_is_hidden_for_a_while(erasures):
    """Then it is told again, for the teller may have died."""
    erasure = await erasures.note(LABEL, in_s=0)
    assert await told_now(erasures, hide_s=0) == [erasure]
    await erasures.tell_again(erasure, in_s=60)
    assert await told_now(erasures) == []


async def test_what_everybody_has_heard_is_told_no_more(erasures):
    """Removing it again changes nothing."""
    erasure = await erasures.note(LABEL, in_s=0)
    for _ in range(2):
        await erasures.remove(erasure)
    assert await told_now(erasures) == []


async def test_what_is_a_day_old_is_dropped(erasures):
    """By the store's clock."""
    now = await erasures.note(LABEL, in_s=0)
    old = Erasure(LABEL, now.erased_ms - 86_400_000)
    await erasures.tell_again(old, in_s=-1)
    for _ in range(2):
        assert await told_now(erasures) == [now]
