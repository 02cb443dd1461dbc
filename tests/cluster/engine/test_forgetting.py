"""Pages of an erased conversation: which go, which stay, and what becomes of those in use."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterable

from cluster.engine.block_manager import BlockManager, BlockTable
from cluster.protocol import Forgotten

PAGE = 4


def make_manager(num_pages: int = 17) -> BlockManager:
    return BlockManager(num_pages=num_pages, page_size=PAGE, model_id="m")


def computed(manager: BlockManager, ids: Iterable[int], label: str, salt: str = "a") -> BlockTable:
    """A table whose tokens are all computed, found ones included."""
    table, token_ids = manager.open(salt, label=label), array("i", ids)
    manager.extend(table, token_ids)
    assert manager.grow(table, len(token_ids))
    manager.commit(table, token_ids, len(token_ids))
    return table


def cache(manager: BlockManager, ids: Iterable[int], label: str, salt: str = "a") -> None:
    """Compute and release."""
    manager.release(computed(manager, ids, label, salt))


def found(manager: BlockManager, ids: Iterable[int], salt: str = "a") -> int:
    """Tokens that a new sequence would find."""
    table = manager.open(salt, label="who asks")
    num_tokens = manager.extend(table, array("i", ids))
    manager.release(table)
    return num_tokens


def test_cached_pages_of_a_label_are_dropped() -> None:
    """All of its branches go, and the pages are free."""
    manager = make_manager()
    cache(manager, range(13), "x")
    cache(manager, [*range(8), *range(50, 55)], "x")
    assert manager.forget("a", "x") == Forgotten(dropped=4)
    assert (found(manager, range(13)), manager.num_cached, manager.num_available) == (0, 0, 16)
    manager.debug_check([])


def test_pages_of_other_labels_and_tenants_stay() -> None:
    """The same label of another tenant is another owner."""
    manager = make_manager()
    cache(manager, range(9), "x")
    cache(manager, range(20, 29), "y")
    cache(manager, range(9), "x", salt="b")
    assert manager.forget("a", "x").dropped == 2
    assert (found(manager, range(20, 29)), found(manager, range(9), salt="b")) == (8, 8)


def test_a_label_without_pages_is_forgotten_in_vain() -> None:
    """Nothing is counted, and forgetting twice is as good as once."""
    manager = make_manager()
    assert manager.forget("a", "x") == Forgotten()
    cache(manager, range(9), "x")
    manager.forget("a", "x")
    assert manager.forget("a", "x") == Forgotten()


def test_what_others_made_is_not_forgotten() -> None:
    """A conversation that went on from another's pages takes only its own along."""
    manager = make_manager()
    cache(manager, range(8), "y")
    cache(manager, range(17), "x")
    assert manager.forget("a", "x").dropped == 2
    assert found(manager, range(9)) == 8


def test_a_beginning_that_others_continue_becomes_theirs() -> None:
    """It stays as long as one of them is there, and goes with the last: whoever made it is forgotten."""
    manager = make_manager()
    cache(manager, range(8), "x")
    cache(manager, [*range(8), *range(50, 55)], "y")
    cache(manager, [*range(8), *range(60, 65)], "z")
    assert manager.forget("a", "x").dropped == 0
    assert manager.forget("a", "z").dropped == 1
    assert found(manager, [*range(8), *range(50, 55)]) == 12
    manager.debug_check([])
    assert manager.forget("a", "y").dropped == 3
    assert manager.num_cached == 0


def test_pages_in_use_go_with_their_last_holder() -> None:
    """Those that come after the forgetting too, even if nothing was full at the time."""
    manager = make_manager()
    first = computed(manager, range(9), "x")
    second = computed(manager, [70, 71], "x")
    assert manager.forget("a", "x") == Forgotten(held=2)
    for table, ids in ((first, range(17)), (second, range(70, 79))):
        token_ids = array("i", ids)
        assert manager.grow(table, len(token_ids))
        manager.commit(table, token_ids, len(token_ids))
    manager.debug_check([first, second])
    manager.release(first, keep_until=1000.0)
    manager.release(second)
    assert (manager.num_cached, manager.num_active) == (0, 0)
    manager.debug_check([])


def test_a_page_in_use_by_another_goes_when_that_one_ends() -> None:
    """Unless the other has gone on from it: then it is the other's."""
    manager = make_manager()
    cache(manager, range(8), "x")
    short, long = computed(manager, range(9), "y"), computed(manager, [*range(4), *range(50, 59)], "y")
    assert manager.forget("a", "x") == Forgotten(held=2)
    manager.release(short)
    manager.release(long)
    assert found(manager, [*range(4), *range(50, 59)]) == 12
    assert found(manager, range(9)) == 4
    manager.debug_check([])


def test_cached_pages_below_a_page_in_use_are_dropped_at_once() -> None:
    """Only what is held waits."""
    manager = make_manager()
    cache(manager, range(13), "x")
    holder = computed(manager, range(5), "y")
    assert manager.forget("a", "x") == Forgotten(dropped=2, held=1)
    manager.debug_check([holder])


def test_a_label_may_come_again() -> None:
    """What is computed after the forgetting is kept, and can be forgotten once more."""
    manager = make_manager()
    cache(manager, range(9), "x")
    manager.forget("a", "x")
    cache(manager, range(9), "x")
    assert found(manager, range(9)) == 8
    assert manager.forget("a", "x").dropped == 2


def test_evicted_pages_leave_nothing_to_forget() -> None:
    """Nor does a label cost anything once its pages are gone."""
    manager = make_manager()
    cache(manager, range(9), "x")
    manager.clear_cache()
    gc.collect()
    assert not list(manager._owners._owners)
    cache(manager, range(9), "y")
    assert manager.forget("a", "x") == Forgotten()
    assert found(manager, range(9)) == 8


def test_preempted_sequences_do_not_find_what_was_forgotten() -> None:
    """Its pages go when it is preempted, and again when it ends."""
    manager, ids = make_manager(), array("i", range(9))
    table = computed(manager, ids, "x")
    manager.forget("a", "x")
    manager.release(table)
    assert manager.extend(table, ids) == 0
    assert manager.grow(table, len(ids))
    manager.commit(table, ids, len(ids))
    manager.release(table)
    assert manager.num_cached == 0
    manager.debug_check([table])


def test_forgetting_takes_the_time_of_its_own_pages() -> None:
    """It looks at pages of its own and what directly continues them, not at the rest of a cache."""
    manager = make_manager(num_pages=200)
    cache(manager, range(40), "y")
    cache(manager, [*range(40), *range(100, 140)], "x")
    for i in range(10):
        cache(manager, range(1000 * i, 1000 * i + 40), f"other {i}")
    nodes = manager._tree.owned_by(manager._owners.of("a", "x"))
    assert [node.tokens for node in nodes] == [array("i", range(i, i + 4)).tobytes() for i in range(100, 140, 4)]
