"""The least of many items whose keys grow on their own.

An entry holds the key that its item had when it was pushed. Because keys grow, an outdated entry is too early, never
too late: it is brought up to date when it comes to the top. An item whose key became smaller must be pushed again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

_SLACK = 16  # outdated entries beyond twice the items before the heap is built anew
Key = tuple[float, ...]
T = TypeVar("T", bound=Hashable)


class GrowingHeap(Generic[T]):
    """Items by ``key``. ``peek`` is O(log n) per item whose key grew since it was at the top."""

    def __init__(self, key: Callable[[T], Key]) -> None:
        self._key = key
        self._heap: list[tuple[Key, int, T]] = []
        self._serials: dict[T, int] = {}  # of each item's valid entry
        self._next = count()

    def __len__(self) -> int:
        return len(self._serials)

    def push(self, item: T) -> None:
        """Add ``item``, or tell that its key became smaller."""
        serial = self._serials[item] = next(self._next)
        heappush(self._heap, (self._key(item), serial, item))
        if len(self._heap) > 2 * len(self._serials) + _SLACK:
            self._rebuild()

    def remove(self, item: T) -> None:
        """Take ``item`` out."""
        del self._serials[item]
        if not self._serials:
            self._heap.clear()

    def peek(self) -> T | None:
        """The item with the least key; None when there is none."""
        while self._heap:
            key, serial, item = self._heap[0]
            if self._serials.get(item) != serial:
                heappop(self._heap)
                continue
            present = self._key(item)
            if present == key:
                return item
            heapreplace(self._heap, (present, serial, item))
        return None

    def _rebuild(self) -> None:
        self._heap = [(self._key(item), serial, item) for item, serial in self._serials.items()]
        heapify(self._heap)
