"""What every ConversationStore promises about idempotency keys."""

from __future__ import annotations

import asyncio

import pytest

from services.conversations.store import Reservation
from tests.support.stores import ALSO_TWICE
from tests.support.turns import TENANT

pytestmark = ALSO_TWICE
FIRST = Reservation("body", "resp_1")
SECOND = Reservation("another body", "resp_2")


async def test_a_key_stands_for_what_was_reserved_first(store):
    """The second caller sees the first one's body and turn, and can tell whether they are its own."""
    assert await store.reserve(TENANT, "key", FIRST) == FIRST
    assert await store.reserve(TENANT, "key", SECOND) == FIRST
    assert await store.reserve(TENANT, "key", FIRST) == FIRST


async def test_keys_are_their_tenants(store):
    """Two tenants may use the same one."""
    assert await store.reserve(TENANT, "key", FIRST) == FIRST
    assert await store.reserve("other", "key", SECOND) == SECOND


@pytest.mark.parametrize("key", ["", "}x{", "é\x00\n", "k" * 5000])
async def test_any_text_is_a_key(store, key):
    """A caller's text never shapes a name in the store."""
    assert await store.reserve(TENANT, key, FIRST) == FIRST
    assert await store.reserve(TENANT, key + "'", SECOND) == SECOND


async def test_a_reservation_can_be_replaced_by_who_knows_it(store):
    """Once: whoever comes second hears of the one that has replaced it, and one who is mistaken changes nothing."""
    third = Reservation("body", "resp_3")
    await store.reserve(TENANT, "key", FIRST)
    assert await store.reserve(TENANT, "key", third, instead_of=SECOND) == FIRST
    assert await store.reserve(TENANT, "key", SECOND, instead_of=FIRST) == SECOND
    assert await store.reserve(TENANT, "key", third, instead_of=FIRST) == SECOND
    assert await store.reserve(TENANT, "key", third) == SECOND


async def test_callers_at_once_agree(store):
    """One of them was first."""
    own = [Reservation(str(number), f"resp_{number}") for number in range(20)]
    held = await asyncio.gather(*(store.reserve(TENANT, "key", one) for one in own))
    assert len({one.turn for one in held}) == 1
