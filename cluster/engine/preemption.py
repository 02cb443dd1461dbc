"""Who leaves the batch: because pages ran out, or because another tenant waits for its share.

Pages ran out: the lowest class goes first, in it the tenant with the highest virtual token count, of it the latest
arrival. So nobody goes for a lower class. The first arrival of the batch's highest class never goes, and every request
fits the pool alone: some sequence always comes to its end.

A share: a tenant's part of the batch is the larger of its parts of slots and of pages (dominant resource fairness:
Ghodsi et al., NSDI 2011). A sequence whose tenant would stay within its share takes the place of the latest arrivals
of the tenant most above its own, as long as that one keeps its share. Lower classes make room in any case. Such a swap
cannot be undone by the same rule, and a sequence that was preempted before stays until it has computed a page more than
it had: however tenants come and go, every return to the batch gains something.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from cluster.engine.fairness import Account, Accounts
from cluster.engine.sequence import Sequence

_EPSILON = 1e-9  # shares are sums of floats


def oldest(running: list[Sequence]) -> Sequence:
    """The first arrival of the highest class, who is never preempted."""
    return min(running, key=lambda seq: (seq.priority, seq.arrival))


def victim(running: list[Sequence]) -> Sequence:
    """Who gives its pages up when there are none left. At least two must run."""
    spared = oldest(running)
    others = [seq for seq in running if seq is not spared]
    return max(others, key=lambda seq: (seq.priority, seq.account.count, seq.arrival))


@dataclass(frozen=True, slots=True)
class Size:
    """Slots and pages: of the whole batch, of a tenant, or those that are missing."""

    slots: int
    pages: int


class Shares:
    """How much of the batch each tenant has and may have, at one moment. O(running) to make."""

    def __init__(self, running: list[Sequence], accounts: Accounts, whole: Size, page_size: int) -> None:
        self._running = running
        self._accounts = accounts
        self._whole = whole
        self._page_size = page_size
        self._pages: dict[Account, int] = defaultdict(int)
        self._slots: dict[Account, int] = defaultdict(int)
        for seq in running:
            self._pages[seq.account] += len(seq.table.pages)
            self._slots[seq.account] += 1

    def makers_of_room(self, seq: Sequence, lacking: Size) -> list[Sequence]:
        """Who leaves so that ``seq``, whose table holds what the cache has, finds what it lacks; empty: nobody does."""
        candidates = self._candidates(seq)
        holders = self._holders(seq, candidates) if lacking.pages > 0 else Counter[int]()
        chosen: list[Sequence] = []
        slots, pages = lacking.slots, lacking.pages
        while slots > 0 or pages > 0:
            able = [other for other in candidates if other.priority > seq.priority or self._can_spare(other)]
            if not able:
                return []
            leaving = max(able, key=lambda other: (other.priority, self._excess(other.account), other.arrival))
            candidates.remove(leaving)
            chosen.append(leaving)
            self._take(leaving)
            # It also gives up the page that is kept free for each running sequence.
            slots, pages = slots - 1, pages - 1 - _num_freed(leaving, holders)
        return chosen

    def _candidates(self, seq: Sequence) -> list[Sequence]:
        spared = oldest(self._running)
        is_within = self._is_within_share(seq)
        return [
            other
            for other in self._running
            if other is not spared
            and self._has_gained(other)
            and (other.priority > seq.priority or (is_within and other.priority == seq.priority))
        ]

    def _holders(self, seq: Sequence, candidates: list[Sequence]) -> Counter[int]:
        """How many tables hold each page of the candidates and their tenants."""
        accounts = {other.account for other in candidates} | {seq.account}
        tables = [other.table for other in self._running if other.account in accounts]
        return Counter(page for table in (*tables, seq.table) for page in table.pages)

    def _is_within_share(self, seq: Sequence) -> bool:
        account = seq.account
        num_pages = -(-len(seq.token_ids) // self._page_size)
        part = self._part(self._slots[account] + 1, self._pages[account] + num_pages)
        return part <= self._accounts.share(account) + _EPSILON

    def _can_spare(self, other: Sequence) -> bool:
        account = other.account
        part = self._part(self._slots[account] - 1, self._pages[account] - len(other.table.pages))
        return part >= self._accounts.share(account) - _EPSILON

    def _has_gained(self, other: Sequence) -> bool:
        return not other.num_preemptions or other.num_computed - other.num_found >= self._page_size

    def _excess(self, account: Account) -> float:
        return self._part(self._slots[account], self._pages[account]) / self._accounts.share(account)

    def _part(self, slots: int, pages: int) -> float:
        return max(slots / self._whole.slots, pages / self._whole.pages)

    def _take(self, leaving: Sequence) -> None:
        self._slots[leaving.account] -= 1
        self._pages[leaving.account] -= len(leaving.table.pages)


def _num_freed(leaving: Sequence, holders: Counter[int]) -> int:
    """Pages that nobody holds when ``leaving`` has left too."""
    holders.subtract(leaving.table.pages)
    return sum([not holders[page] for page in leaving.table.pages])
