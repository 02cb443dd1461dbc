"""Tenants share the cache by weight, and a flood takes nothing from who has less than its share."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.block_manager import BlockManager, BlockTable

PAGE = 4
NUM_PAGES = 97  # 96 to hand out, which weights 1:1 and 1:3 divide evenly


def make_manager() -> BlockManager:
    return BlockManager(num_pages=NUM_PAGES, page_size=PAGE, model_id="m")


def compute(manager: BlockManager, salt: str, name: int, num_pages: int, *, weight: float = 1.0) -> BlockTable:
    """The table of a conversation of its own whose pages are all full and computed."""
    table, ids = manager.open(salt, weight=weight), array("i", [name]) * (num_pages * PAGE)
    manager.extend(table, ids)
    assert manager.grow(table, len(ids))
    manager.commit(table, ids, len(ids))
    return table


def flood(manager: BlockManager, sizes: list[int], *, salt: str = "a", keep_until: float = 0.0) -> None:
    """Unique prompts one after another."""
    for i, num_pages in enumerate(sizes):
        manager.release(compute(manager, salt, 1000 + i, num_pages), keep_until=keep_until)


def num_cached(manager: BlockManager, salt: str) -> int:
    return manager.tenants()[salt].cached


@pytest.mark.parametrize("weight", [1.0, 3.0])
@given(
    conversations=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 16), min_size=20, max_size=40),
    wish=st.sampled_from([0.0, 60.0]),
)
@settings(max_examples=40)
def test_cached_pages_survive_a_flood_up_to_the_share(
    weight: float, conversations: list[int], sizes: list[int], wish: float
) -> None:
    """Whatever A sends, and however long it wishes to keep it, B keeps all its pages up to its share of the pool."""
    manager = make_manager()
    for name, num_pages in enumerate(conversations):
        manager.release(compute(manager, "b", name, num_pages, weight=weight))
    before, share = num_cached(manager, "b"), int((NUM_PAGES - 1) * weight / (1 + weight))
    flood(manager, sizes, keep_until=wish)
    assert num_cached(manager, "b") >= min(before, share)
    manager.debug_check([])


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_tenants_that_both_flood_meet_at_their_shares(weight: float) -> None:
    """Two tenants that want the whole pool get it by weight, whoever came first."""
    manager = make_manager()
    flood(manager, [4] * 40)
    for i in range(60):
        manager.release(compute(manager, "b", i, 4, weight=weight))
        manager.release(compute(manager, "a", 100 + i, 4))
    counts = {salt: account.cached for salt, account in manager.tenants().items()}
    share = (NUM_PAGES - 1) * weight / (1 + weight)
    assert abs(counts["b"] - share) <= 4
    assert sum(counts.values()) == NUM_PAGES - 1


def test_running_flood_leaves_conversations_alone() -> None:
    """Pages that A's running sequences hold count for A: its own cached pages go before B's."""
    manager = make_manager()
    flood(manager, [1] * 20)
    manager.release(compute(manager, "b", 0, 30))
    held = [compute(manager, "a", 100 + i, 10) for i in range(6)]
    assert (num_cached(manager, "a"), num_cached(manager, "b")) == (6, 30)
    manager.debug_check(held)


def test_unused_share_is_lent() -> None:
    """A tenant alone fills the pool; nothing stays empty for tenants that are not there."""
    manager = make_manager()
    flood(manager, [8] * 20)
    assert num_cached(manager, "a") == NUM_PAGES - 1


def test_page_in_need_goes_even_below_the_share() -> None:
    """When nobody else has a cached page left, the last ones go rather than a sequence."""
    manager = make_manager()
    manager.release(compute(manager, "b", 0, 20))
    held = compute(manager, "a", 1, 90)
    assert num_cached(manager, "b") == 6
    manager.debug_check([held])


def test_latest_weight_counts() -> None:
    """A tenant whose weight was raised is entitled to more at once."""
    manager = make_manager()
    manager.release(compute(manager, "b", 0, 60))
    manager.debug_check([])  # ranks it by its old weight
    manager.open("b", weight=3.0)
    manager.debug_check([])
    flood(manager, [4] * 40)
    assert num_cached(manager, "b") == 60


def test_live_conversations_of_others_outlive_dead_pages_of_those_with_more() -> None:
    """Of two tenants over their share the one with dead pages loses them first, though the other holds more."""
    manager = make_manager()
    flood(manager, [1] * 44, keep_until=60.0)
    flood(manager, [1] * 40, salt="b")
    manager.release(compute(manager, "c", 0, 2))
    held = compute(manager, "c", 1, 12)
    assert {salt: account.cached for salt, account in manager.tenants().items()} == {"a": 44, "b": 38, "c": 2}
    manager.debug_check([held])


def test_wish_does_not_protect_from_tenants_below_their_share() -> None:
    """A tenant that wishes to keep everything loses it as soon as another has less than its share and wants it."""
    manager = make_manager()
    flood(manager, [1] * 96, keep_until=60.0)
    for i in range(80):
        manager.release(compute(manager, "b", i, 1))
    assert (num_cached(manager, "a"), num_cached(manager, "b")) == (48, 48)
