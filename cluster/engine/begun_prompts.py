"""Prompts that are in the batch and not complete, and which of them computes its next chunk.

The tenant with the least virtual token count goes first. That alone would have the prompts of many tenants, which came
together, advance in turns and all be done at the end. So a prompt whose rest is small goes first: if its tenant, given
all of the rest, would have had at most one step's tokens more than the next one in line. That is no further ahead than
a whole step of chunks may bring a tenant in any case, and of equal prompts one is done after the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.engine.fairness import COMPUTED, OUTPUT
from cluster.engine.growing_heap import GrowingHeap
from cluster.engine.sequence import Sequence


class BegunPrompts:
    """The prompts of one step that have no chunk in it yet.

    ``max_lead`` is how many of its tokens a tenant may be ahead of another for the sake of a prompt's end.
    """

    def __init__(self, prompts: Iterable[Sequence], *, max_lead: int) -> None:
        self._max_lead = max_lead
        self._left = set(prompts)
        self._heap: GrowingHeap[Sequence] = GrowingHeap(lambda seq: (seq.priority, seq.account.count, seq.arrival))
        for seq in self._left:
            self._heap.push(seq)

    def first(self) -> Sequence | None:
        """Whose turn it is by class, the tenant's count and arrival; None if there is none."""
        return self._heap.peek()

    def ending_before(self, rival: Sequence) -> Sequence | None:
        """The prompt of ``rival``'s class with the smallest rest that may be computed before ``rival``. O(prompts)."""
        ending = [seq for seq in self._left if seq.priority == rival.priority and self._may_end_before(rival, seq)]
        return min(ending, key=lambda seq: (seq.num_remaining, seq.arrival), default=None)

    def take(self, seq: Sequence) -> Sequence:
        """``seq``, which is not among them any more."""
        self._left.remove(seq)
        self._heap.remove(seq)
        return seq

    def _may_end_before(self, rival: Sequence, seq: Sequence) -> bool:
        account = seq.account
        lead = (account.count - rival.account.count) * account.weight
        return lead + COMPUTED * seq.num_remaining + OUTPUT <= self._max_lead
