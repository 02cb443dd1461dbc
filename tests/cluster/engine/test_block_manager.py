"""Pages: handing out, sharing, keeping, finding again, evicting."""

from array import array
from collections.abc import Iterable

import pytest

from cluster.engine import page_tree
from cluster.engine.block_manager import BlockManager, BlockTable
from cluster.engine.tenant_pages import Tenant, TenantPages
from cluster.engine.tenant_use import TenantUse

PAGE = 4


def tokens(ids: Iterable[int]) -> "array[int]":
    return array("i", ids)


def make_manager(num_pages: int = 9, **options: int) -> BlockManager:
    return BlockManager(num_pages=num_pages, page_size=PAGE, model_id="m", **options)


def computed(manager: BlockManager, ids: Iterable[int], salt: str = "a") -> BlockTable:
    """A table whose tokens are all computed, found ones included."""
    table, token_ids = manager.open(salt), tokens(ids)
    manager.extend(table, token_ids)
    assert manager.grow(table, len(token_ids))
    manager.commit(table, token_ids, len(token_ids))
    return table


def found(manager: BlockManager, ids: Iterable[int], salt: str = "a") -> int:
    """Tokens that a new sequence would find."""
    table = manager.open(salt)
    num_tokens = manager.extend(table, tokens(ids))
    manager.release(table)
    return num_tokens


def test_null_page_is_never_handed_out() -> None:
    """A table that takes the whole pool does not get page 0."""
    manager = make_manager()
    table = computed(manager, range(8 * PAGE))
    assert sorted(table.pages) == list(range(1, 9))


def test_shortage_is_reported_and_changes_nothing() -> None:
    """A table that asks for more than there is gets False and no page."""
    manager = make_manager()
    held = computed(manager, range(6 * PAGE))
    table = manager.open("a")
    assert not manager.grow(table, 3 * PAGE)
    assert (len(table.pages), manager.num_available) == (0, 2)
    manager.debug_check([held, table])


def test_released_pages_are_found_again() -> None:
    """After a release every full page of the prefix is found."""
    manager = make_manager()
    manager.release(computed(manager, range(11)))
    assert found(manager, range(11)) == 8
    assert (manager.num_active, manager.num_cached) == (0, 2)


def test_one_token_is_always_left_to_compute() -> None:
    """A fully cached prompt leaves its last page uncovered, for without a token there are no logits."""
    manager = make_manager()
    manager.release(computed(manager, range(8)))
    assert found(manager, range(8)) == 4
    assert found(manager, range(9)) == 8


def test_partial_page_is_dropped() -> None:
    """The tail that does not fill a page goes back to the free pages at once."""
    manager = make_manager()
    manager.release(computed(manager, range(3)))
    assert (manager.num_cached, manager.num_available) == (0, 8)


def test_page_is_shared_while_its_owner_runs() -> None:
    """A second sequence finds the pages of one that still runs, and they outlive it."""
    manager = make_manager()
    first = computed(manager, range(10))
    second = computed(manager, range(12))
    assert list(second.pages[:2]) == list(first.pages[:2])
    manager.release(first)
    manager.debug_check([second])
    assert manager.num_active == 3


def test_other_prefix_is_not_found() -> None:
    """A page with the same tokens behind another prefix is another page."""
    manager = make_manager()
    manager.release(computed(manager, [1, 1, 1, 1, 2, 2, 2, 2, 3]))
    assert found(manager, [9, 9, 9, 9, 2, 2, 2, 2, 3]) == 0
    assert found(manager, [2, 2, 2, 2, 3]) == 0


def test_salts_share_nothing() -> None:
    """The same tokens under another salt are not found and take pages of their own."""
    manager = make_manager()
    first = computed(manager, range(9), salt="a")
    second = computed(manager, range(9), salt="b")
    assert not set(first.pages) & set(second.pages)
    manager.debug_check([first, second])


def test_models_have_different_keys() -> None:
    """Keys are rooted in the model, so that pools of two models could never be confused."""
    keys = [
        BlockManager(num_pages=2, page_size=PAGE, model_id=model).open(salt).path[0].key
        for model, salt in [("m", "a"), ("ma", ""), ("", "ma"), ("m", "b")]
    ]
    assert len(set(keys)) == 4


def test_same_page_computed_twice_is_kept_once() -> None:
    """Of two sequences that compute the same page at once, the second takes the first's page and frees its own."""
    manager = make_manager()
    one, two, ids = manager.open("a"), manager.open("a"), tokens(range(9))
    for table in (one, two):
        assert manager.grow(table, 9)
    own = two.pages[0]
    for table in (one, two):
        manager.commit(table, ids, 9)
    assert list(one.pages[:2]) == list(two.pages[:2])
    assert own not in two.pages
    assert manager.num_available == 8 - 4
    manager.debug_check([one, two])


def test_oldest_path_goes_first_and_from_its_leaf() -> None:
    """Eviction takes the longest unused conversation, last page first."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8))
    manager.release(computed(manager, [2] * 8))
    held = computed(manager, [3] * 4)
    assert (found(manager, [1] * 9), found(manager, [2] * 9)) == (4, 8)
    manager.debug_check([held])
    assert manager.evicted_pages == 1


def test_use_makes_a_path_young() -> None:
    """A prefix that was used again is evicted after one that was not."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8))
    manager.release(computed(manager, [2] * 8))
    assert found(manager, [1] * 9) == 8
    held = computed(manager, [3] * 8)
    assert (found(manager, [1] * 9), found(manager, [2] * 9)) == (8, 0)
    manager.debug_check([held])


def test_held_pages_are_never_evicted() -> None:
    """A path in use survives any pressure."""
    manager = make_manager(num_pages=5)
    held = computed(manager, [1] * 8)
    for i in range(2, 9):
        manager.release(computed(manager, [i] * 8))
        manager.debug_check([held])
    assert found(manager, [1] * 9) == 8


def test_cleared_cache_leaves_every_page_free() -> None:
    """Once everything is released and the cache cleared, nothing is found and nothing is missing."""
    manager = make_manager()
    manager.release(computed(manager, range(20)))
    manager.clear_cache()
    manager.debug_check([])
    assert (manager.num_cached, manager.num_available, found(manager, range(20))) == (0, 8, 0)


def test_discarded_pages_are_forgotten() -> None:
    """Pages of a failed sequence are not found again."""
    manager = make_manager()
    manager.discard(computed(manager, range(11)))
    assert (found(manager, range(11)), manager.num_cached, manager.num_available) == (0, 0, 8)


def test_cached_pages_behind_discarded_ones_are_forgotten() -> None:
    """What was computed on top of a page in doubt goes with it; other conversations stay."""
    manager = make_manager(num_pages=20)
    manager.release(computed(manager, range(20)))
    manager.release(computed(manager, [*range(8), *[9] * 8]))
    manager.release(computed(manager, [7] * 8))
    manager.discard(computed(manager, range(6)))
    manager.debug_check([])
    assert [found(manager, ids) for ids in (range(20), [*range(8), *[9] * 9], [7] * 9)] == [0, 0, 8]


def test_discarded_page_goes_with_its_last_holder() -> None:
    """A page in doubt stays while another holds it, and goes when that one fails too."""
    manager = make_manager()
    one, two = computed(manager, range(11)), computed(manager, range(11))
    manager.discard(one)
    manager.debug_check([two])
    assert found(manager, range(11)) == 8
    manager.discard(two)
    assert found(manager, range(11)) == 0


def test_tenants_that_left_cost_nothing() -> None:
    """The root of a salt goes with its last page."""
    manager = make_manager()
    for i in range(50):
        manager.release(computed(manager, range(9), salt=f"tenant-{i}"))
    manager.clear_cache()
    assert len(manager._tenants) == 0


def test_notes_on_tenants_that_left_are_bounded() -> None:
    """Not even their names stay, although nothing was ever evicted."""
    manager = make_manager()
    for i in range(1000):
        manager.release(computed(manager, range(9), salt=f"tenant-{i}"), keep_until=5.0)
        manager.discard(computed(manager, range(9), salt=f"tenant-{i}"))
    manager.observe(6.0)
    notes = manager._eviction
    assert (manager.tenants(), notes._ends, manager.num_available) == ({}, [], 8)
    kept = [notes._changed, notes._counted, notes._all._heap, notes._all.levels, notes._dead._heap, notes._dead.levels]
    assert all(len(notes) < 300 for notes in kept)


def test_kept_conversation_outlives_younger_ones() -> None:
    """Until its wish ends, a path is evicted after paths that were used later."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8), keep_until=60.0)
    for i in range(2, 6):
        manager.release(computed(manager, [i] * 8))
        manager.debug_check([])
    assert (found(manager, [1] * 9), found(manager, [4] * 9), found(manager, [5] * 9)) == (8, 0, 8)


def test_wish_ends() -> None:
    """From then on use alone decides."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8), keep_until=60.0)
    manager.release(computed(manager, [2] * 8))
    manager.observe(60.0)
    manager.release(computed(manager, [3] * 8))
    manager.debug_check([])
    assert [found(manager, [i] * 9) for i in (1, 2, 3)] == [0, 8, 8]


def test_wish_lasts_to_its_end() -> None:
    """A wish ends with the second in which it was to end, never before."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8), keep_until=59.5)
    manager.observe(59.4)
    for i in (2, 3):
        manager.release(computed(manager, [i] * 8))
    assert found(manager, [1] * 9) == 8


def test_use_after_a_wish_makes_a_path_young() -> None:
    """A conversation that goes on after its wish ended is evicted by its new use, not by its old wish."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8), keep_until=10.0)
    manager.release(computed(manager, [2] * 8), keep_until=30.0)
    manager.observe(11.0)
    assert found(manager, [1] * 9) == 8
    manager.observe(31.0)
    held = computed(manager, [3] * 8)
    manager.debug_check([held])
    assert [found(manager, [i] * 9) for i in (1, 2)] == [8, 0]


def test_wish_is_no_hold() -> None:
    """Pages that are needed go, wish or not, the nearest end first."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8), keep_until=90.0)
    manager.release(computed(manager, [2] * 8), keep_until=60.0)
    held = computed(manager, [3] * 8)
    manager.debug_check([held])
    assert [found(manager, [i] * 9) for i in (1, 2)] == [8, 0]


def test_later_release_does_not_shorten_a_wish() -> None:
    """A prefix that one conversation wants kept stays, though another that shares it wants nothing."""
    manager = make_manager(num_pages=5)
    one, two = computed(manager, [1] * 8), computed(manager, [1] * 8)
    manager.release(one, keep_until=60.0)
    manager.release(two)
    for i in range(2, 5):
        manager.release(computed(manager, [i] * 8))
    manager.debug_check([])
    assert found(manager, [1] * 9) == 8


def test_time_does_not_go_back() -> None:
    """A wish that has ended stays so."""
    manager = make_manager(num_pages=5)
    manager.release(computed(manager, [1] * 8), keep_until=60.0)
    manager.observe(61.0)
    manager.observe(1.0)
    for i in (2, 3):
        manager.release(computed(manager, [i] * 8))
    assert found(manager, [1] * 9) == 0


def test_pages_are_counted_by_tenant() -> None:
    """Pages held and kept are known per tenant, shared ones once."""
    manager = make_manager(num_pages=20)
    manager.release(computed(manager, range(9), salt="a"))
    one, two = computed(manager, range(13), salt="b"), computed(manager, range(15), salt="b")
    assert manager.tenants() == {
        "a": TenantPages(cached=2, active=0),
        "b": TenantPages(cached=0, active=5),
    }
    manager.debug_check([one, two])


def test_lookup_counts_once_at_admission() -> None:
    """A lookup that was given up and one that goes on count nothing; only what an admitted sequence found does."""
    manager = make_manager(num_pages=20)
    manager.release(computed(manager, range(9)))
    table, ids = manager.open("a"), tokens(range(25))
    for _ in range(3):
        manager.extend(table, ids)
        manager.release(table)
    manager.extend(table, ids)
    for num_tokens in (12, 16):
        assert manager.grow(table, num_tokens)
        manager.commit(table, ids, num_tokens)
        manager.extend(table, ids)
    use = manager.tenant_use()["a"]
    assert (use.hit_tokens, use.miss_tokens) == (2 * 4, (2 + 4) * 4)


def test_use_is_told_by_tenant_and_adds_up() -> None:
    """Pages, tokens found and not found, and lost pages of named tenants; the rest together, also of those that left."""
    manager = make_manager(num_pages=11, max_named_tenants=1)
    manager.release(computed(manager, range(9), salt="a"))
    manager.release(computed(manager, range(5), salt="b"))
    held = computed(manager, range(13), salt="a")
    manager.release(computed(manager, range(21), salt="c"))
    assert manager.tenant_use() == {
        "a": TenantUse(active_pages=4, cached_pages=0, hit_tokens=8, miss_tokens=8 + 4, evicted_pages=0),
        "other": TenantUse(active_pages=0, cached_pages=5, hit_tokens=0, miss_tokens=4 + 20, evicted_pages=1),
    }
    manager.debug_check([held])


def test_discard_looks_only_below_its_own_pages() -> None:
    """Pages of others are not even visited, however many there are."""
    manager = make_manager(num_pages=60)
    for i in range(10, 20):
        manager.release(computed(manager, [i] * 8))
    table = computed(manager, range(12))
    seen: list[int] = []
    manager._refs = Seen(manager._refs, seen)
    manager.discard(table)
    assert len(seen) <= 12


class Seen(list[int]):
    """A list that notes which indexes are read."""

    def __init__(self, values: Iterable[int], seen: list[int]) -> None:
        super().__init__(values)
        self.seen = seen

    def __getitem__(self, index):
        self.seen.append(index)
        return super().__getitem__(index)


def test_equal_digests_of_different_pages_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a digest collided, tokens are compared: nothing false is found, and the second page is not kept."""
    monkeypatch.setattr(page_tree, "digest", lambda *_: b"same")
    manager = make_manager()
    manager.release(computed(manager, [1] * 5))
    assert found(manager, [2] * 5) == 0
    second = computed(manager, [2] * 9)
    assert second.num_indexed == 0
    manager.debug_check([second])
    assert found(manager, [1] * 5) == 4


def unused_last(tenant: Tenant) -> None:
    """Put the page that was used last in front."""
    queue = tenant.cached._queues[0]
    queue.move_to_end(next(reversed(queue)), last=False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda manager, table: manager._free.append(table.pages[0]),
        lambda manager, _: manager._free.pop(),
        lambda manager, table: manager._refs.__setitem__(table.pages[0], 2),
        lambda manager, _: manager._tree._index.popitem(),
        lambda _, table: setattr(table.path[1], "first_child", None),
        lambda _, table: setattr(table.path[1], "tokens", table.path[2].tokens),
        lambda _, table: table.pages.reverse(),
        lambda manager, table: manager._tree.nodes.__setitem__(table.pages[2], table.path[2]),
        lambda _, table: unused_last(table.tenant),
        lambda _, table: setattr(table.tenant, "held", 9),
        lambda _, table: setattr(table.tenant.cached, "num_pages", 3),
        lambda manager, _: setattr(manager, "num_cached", 3),
        lambda manager, table: setattr(manager._tree.nodes[next(iter(table.tenant.cached))], "keep_until", 4),
        lambda manager, _: manager._eviction._counted.clear(),
    ],
    ids=[
        *("double", "lost", "count", "index", "children", "tokens", "order", "written"),
        *("lru", "held", "tenant's cached", "cached", "wish", "share"),
    ],
)
def test_debug_check_sees_damage(damage) -> None:
    """Each kind of damage to the bookkeeping fails the check."""
    manager = make_manager()
    manager.release(computed(manager, [5] * 8))
    table = computed(manager, range(10))
    manager.debug_check([table])
    damage(manager, table)
    with pytest.raises(AssertionError):
        manager.debug_check([table])
