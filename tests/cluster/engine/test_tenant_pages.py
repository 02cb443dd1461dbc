"""The order in which one tenant loses its cached pages."""

import pytest

from cluster.engine.tenant_pages import CachedPages


def make_pages(*wishes: int) -> CachedPages:
    """Pages 1, 2, … released in this order, each with the second in which its wish ends."""
    pages = CachedPages()
    for page, second in enumerate(wishes, start=1):
        pages.add(page, page, second)
    return pages


@pytest.mark.parametrize(
    ("wishes", "now", "order"),
    [
        ((0, 0, 0), 0.0, [1, 2, 3]),
        ((9, 0, 0), 8.9, [2, 3, 1]),
        ((9, 0, 0), 9.0, [1, 2, 3]),
        ((0, 9, 0), 9.0, [1, 2, 3]),
        ((30, 20, 10), 0.0, [3, 2, 1]),
        ((30, 20, 10, 0), 20.0, [3, 2, 4, 1]),
    ],
    ids=["by use", "live last", "dead by use", "merged by use", "nearest end first", "dead, then live"],
)
def test_order(wishes: tuple[int, ...], now: float, order: list[int]) -> None:
    """Dead pages go by use, before live ones, which go by the end of their wish."""
    assert make_pages(*wishes).in_order(now) == order


def test_run_does_not_mix_dead_and_live() -> None:
    """However many may be taken, they are all dead or all live."""
    pages = make_pages(0, 0, 9)
    assert [pages.pop(1.0, 5), pages.pop(1.0, 5), pages.num_pages] == [[1, 2], [3], 0]


def test_runs_follow_the_order() -> None:
    """However many may be taken at once, two kinds of dead pages are merged by use."""
    pages = make_pages(9, 0, 9, 0)
    assert [page for _ in range(4) for page in pages.pop(9.0, 3)] == [1, 2, 3, 4]


def test_taking_the_order_changes_nothing() -> None:
    """A look at the order leaves the pages as they are."""
    pages = make_pages(5, 0)
    assert [pages.in_order(0.0), pages.in_order(0.0), pages.num_pages] == [[2, 1], [2, 1], 2]


def test_empty_queues_do_not_pile_up() -> None:
    """A page that is used and kept again and again leaves nothing behind, evicted or not."""
    pages = make_pages(0)
    for second in range(1, 2000):
        pages.add(2, second, second)
        pages.remove(2, second)
    assert len(pages._queues) + len(pages._seconds) < 100
    assert pages.in_order(0.0) == [1]


def test_dead_pages_are_seen_as_time_passes() -> None:
    """A tenant with live pages only has a dead one from the second on in which the first wish ends."""
    pages = make_pages(9, 7)
    assert [pages.has_dead(now) for now in (0.0, 6.9, 7.0)] == [False, False, True]
