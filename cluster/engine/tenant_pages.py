"""What one tenant has in the KV cache: its counts, and its cached pages in the order in which they may go.

A page is dead when its wish to be kept has passed, or there was none; else it is live. Dead pages go first, the least
recently used before others; then live ones, those with the nearest end first. Wishes end on whole seconds, so pages
queue by that second and inside it by use: adding and removing a page is O(1), and time passing moves nothing.

Children go before their parents. A table releases its whole path, tail first, so a parent's last use is later than
its child's and a live parent's wish never ends before its child's: every order above puts the child in front. (A dead
parent used after its wish ended joins those without a wish, and its child is older than that and was dead before.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from cluster.engine.page_tree import Node

_FEW_QUEUES = 16


@dataclass(frozen=True, slots=True)
class TenantPages:
    """A tenant's pages now.

    Attributes:
        cached: pages that nobody holds but the index can find.
        active: pages that its sequences hold; shared ones count once.
    """

    cached: int = 0
    active: int = 0


class CachedPages:
    """The CACHED pages of one tenant."""

    __slots__ = ("_compact_above", "_queues", "_seconds", "num_pages")

    def __init__(self) -> None:
        self.num_pages = 0
        # Page numbers with the stamp of their last use, by the second in which their wish ends; 0: none.
        self._queues: dict[int, OrderedDict[int, int]] = {0: OrderedDict()}
        self._seconds: list[int] = []  # a heap of the queues' seconds, without 0
        self._compact_above = _FEW_QUEUES

    def __iter__(self) -> Iterator[int]:
        for queue in self._queues.values():
            yield from queue

    def add(self, page: int, stamp: int, keep_until: int) -> bool:
        """Keep ``page``, last used at ``stamp`` (greater than all before); whether its second is a new one."""
        self.num_pages += 1
        queue = self._queues.get(keep_until)
        if queue is not None:
            queue[page] = stamp
            return False
        if len(self._queues) > self._compact_above:
            self._compact()
        self._queues[keep_until] = OrderedDict({page: stamp})
        heappush(self._seconds, keep_until)
        return True

    def remove(self, page: int, keep_until: int) -> None:
        """Take ``page`` out of the queue it was added to."""
        del self._queues[keep_until][page]
        self.num_pages -= 1

    def pop(self, now: float, most: int) -> list[int]:
        """Take out pages to evict at ``now``, one to ``most`` and all dead or all live; there must be one."""
        queue, second = self._queues[0], self._first_second()
        if queue and 0 < second <= now:  # both hold dead pages: merge them one by one
            queue, most = min(queue, self._queues[second], key=_oldest), 1
        elif not queue:
            queue = self._queues[second]
        pages = [queue.popitem(last=False)[0] for _ in range(min(most, len(queue)))]
        self.num_pages -= len(pages)
        return pages

    def has_dead(self, now: float) -> bool:
        """Whether a page is dead at ``now``."""
        return bool(self._queues[0]) or 0 < self._first_second() <= now

    def in_order(self, now: float) -> list[int]:
        """The pages as ``pop`` would take them at ``now``. O(pages); for tests."""
        twin = CachedPages()
        for second, queue in self._queues.items():
            for page, stamp in queue.items():
                twin.add(page, stamp, second)
        return [page for _ in range(self.num_pages) for page in twin.pop(now, 1)]

    def _first_second(self) -> int:
        """The nearest end of a wish, past or to come; 0 if no page has one."""
        while self._seconds:
            second = self._seconds[0]
            if self._queues[second]:
                return second
            heappop(self._seconds)
            del self._queues[second]
        return 0

    def _compact(self) -> None:
        """Drop empty queues, so that they never outnumber the others by much."""
        self._queues = {second: queue for second, queue in self._queues.items() if queue or not second}
        self._seconds = [second for second in self._queues if second]
        heapify(self._seconds)
        self._compact_above = 2 * len(self._queues) + _FEW_QUEUES

    def debug_check(self, nodes: list[Node | None]) -> None:
        """Assert that every page stands in the queue of its wish, in the order of use."""
        assert self.num_pages == len(list(self)), "cached pages of a tenant are miscounted"
        assert sorted(self._seconds) == sorted(self._queues)[1:], "queues and their seconds differ"
        assert len(self._queues) <= self._compact_above + 1, "empty queues pile up"
        for second, queue in self._queues.items():
            assert list(queue.values()) == sorted(queue.values()), "a queue is out of order"
            for page in queue:
                node = nodes[page]
                assert node is not None, "a cached page is not indexed"
                assert node.keep_until == second, "a page waits for another second than its own"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Tenant(Node):
    """The root of one salt's pages, and the account of the tenant behind it.

    Attributes:
        weight: its part of the cache against other tenants; positive.
        held: pages it has, ACTIVE and CACHED.
    """

    salt: str = ""
    weight: float = 1.0
    held: int = 0
    cached: CachedPages = field(default_factory=CachedPages)

    def pages(self) -> TenantPages:
        """The account as a value."""
        cached = self.cached.num_pages
        return TenantPages(cached=cached, active=self.held - cached)


def _oldest(queue: OrderedDict[int, int]) -> int:
    """The stamp of the page that was used least recently."""
    return next(iter(queue.values()))
