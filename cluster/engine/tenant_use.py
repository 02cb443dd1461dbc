"""What tenants had of the page cache since start, told apart for those that use it most.

Metrics must not grow with the number of tenants, so at most a fixed number of them have figures of their own; the rest
are counted together. A tenant gets a place among the first when one is free, or when it has looked up clearly more
pages than the named tenant with the fewest: the margin keeps equal tenants from changing places all the time. What the
one that goes had counted moves to the rest, and what the newcomer counted before stays there, so no count ever falls.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec

from cluster.engine.growing_heap import GrowingHeap

OTHER: Final = "other"  # a tenant of this very name is counted with the rest
MARGIN: Final = 1.25
REMEMBERED: Final = 4096  # tenants without figures of their own whose lookups are known


class TenantUse(msgspec.Struct, frozen=True, array_like=True):
    """One tenant's use of the cache, or that of all who have no figures of their own.

    Attributes:
        active_pages: level: pages that its sequences hold; shared ones count once.
        cached_pages: level: pages kept for reuse that nobody holds.
        hit_tokens: counter: prompt tokens, in full pages, that were found at admission.
        miss_tokens: counter: prompt tokens, in full pages, that were not; the page with the last token is neither.
        evicted_pages: counter: cached pages that it lost to others or to its own later ones.
    """

    active_pages: int = 0
    cached_pages: int = 0
    hit_tokens: int = 0
    miss_tokens: int = 0
    evicted_pages: int = 0


@dataclass(slots=True, eq=False)
class Counts:
    """Pages counted since start, or since the tenant got its place.

    Attributes:
        looked_up: hits and misses since start, those before it got its place too.
    """

    salt: str = OTHER
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    looked_up: int = 0

    def add(self, other: Counts) -> None:
        """Take over what ``other`` has counted."""
        self.hits += other.hits
        self.misses += other.misses
        self.evicted += other.evicted


class TenantLedger:
    """The counts. O(log ``max_named``) per lookup, O(1) per eviction; memory does not follow the number of tenants.

    Attributes:
        named: counts by salt; at most ``max_named``.
        rest: those of everybody else.
    """

    def __init__(self, max_named: int) -> None:
        self.named: dict[str, Counts] = {}
        self.rest = Counts()
        self._max_named = max_named
        self._least: GrowingHeap[Counts] = GrowingHeap(lambda counts: (counts.looked_up,))
        self._unnamed: OrderedDict[str, int] = OrderedDict()  # pages looked up, longest unheard of first

    def note_lookup(self, salt: str, *, hits: int, misses: int) -> None:
        """A sequence was admitted: pages of its prompt that were found, and that were not."""
        counts = self.named.get(salt) or self._place(salt, hits + misses)
        counts.hits += hits
        counts.misses += misses
        counts.looked_up += hits + misses

    def note_evicted(self, salt: str, num_pages: int) -> None:
        """A tenant lost cached pages."""
        self.named.get(salt, self.rest).evicted += num_pages

    def _place(self, salt: str, num_pages: int) -> Counts:
        """Where ``num_pages`` more lookups of a tenant that is not named are to be counted."""
        before = self._unnamed.pop(salt, 0)
        if salt != OTHER and self._make_place(before + num_pages):
            counts = self.named[salt] = Counts(salt, looked_up=before)
            self._least.push(counts)
            return counts
        self._remember(salt, before + num_pages)
        return self.rest

    def _make_place(self, looked_up: int) -> bool:
        """Whether a tenant with so many lookups is named, in the place of the one with the fewest if none is free."""
        if len(self.named) < self._max_named:
            return True
        least = self._least.peek()
        if least is None or looked_up <= MARGIN * least.looked_up:
            return False
        self._least.remove(least)
        del self.named[least.salt]
        self.rest.add(least)
        self._remember(least.salt, least.looked_up)
        return True

    def _remember(self, salt: str, looked_up: int) -> None:
        self._unnamed[salt] = looked_up
        if len(self._unnamed) > REMEMBERED:
            self._unnamed.popitem(last=False)
