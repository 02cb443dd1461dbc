"""Sequences that wait for another to compute the pages that both need.

Samples of one prompt, or prompts behind one long system message, arrive together. Computing them side by side would
compute their common pages once each; so while a sequence in the batch computes the very page that a waiting one needs
next, the waiting one is held back, others pass it, and it finds the pages in the cache afterwards.

Nothing is forked and no lock is held: a follower waits for a sequence that runs, and whatever ends that (its end, an
abort, a failure, a preemption) lets the follower go. A leader is never of a lower class than its follower, which would
otherwise wait for work that everybody else passes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from heapq import heappop, heappush

import numpy as np

from cluster.engine.page_tree import Node
from cluster.engine.sequence import Sequence, SequenceState

_Place = tuple[Node, bytes]  # the last page that is there, and the tokens of the one being computed


class Followers:
    """Who is held back for whom."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._leaders: dict[_Place, Sequence] = {}
        # Per leader: tokens it must have computed, the follower's arrival, the follower.
        self._held: dict[Sequence, list[tuple[int, int, Sequence]]] = {}

    def watch(self, prompts: Iterable[Sequence]) -> None:
        """Take ``prompts``, which are being computed in the batch, for the possible leaders of this step."""
        self.end_step()
        for seq in prompts:
            self.add_leader(seq)

    def end_step(self) -> None:
        """Forget the leaders of a step, and with them the ids that they were computing."""
        self._leaders.clear()

    def add_leader(self, seq: Sequence) -> None:
        """Take ``seq``, which came into the batch, for a possible leader too."""
        place = self._place(seq, len(seq.token_ids))
        if place is not None:
            first = self._leaders.setdefault(place, seq)
            if seq.priority < first.priority:
                self._leaders[place] = seq

    def leader_of(self, seq: Sequence) -> Sequence | None:
        """Who computes the page that ``seq`` needs next. Its table holds what the cache has."""
        place = self._place(seq, len(seq.token_ids) - 1)  # its last token is never taken from the cache
        leader = None if place is None else self._leaders.get(place)
        return leader if leader is not None and leader.priority <= seq.priority else None

    def hold(self, seq: Sequence, leader: Sequence) -> None:
        """Let ``seq`` wait until ``leader`` has computed the pages that both need, or has left the batch."""
        until = self._common_tokens(seq.token_ids, leader.token_ids)
        heappush(self._held.setdefault(leader, []), (until, seq.arrival, seq))

    def let_go(self) -> list[Sequence]:
        """Those whose wait is over, in order of arrival; some may have been aborted. O(leaders), if nobody goes."""
        freed: list[tuple[int, Sequence]] = []
        for leader, held in list(self._held.items()):
            while held and (leader.state is not SequenceState.RUNNING or held[0][0] <= leader.num_computed):
                _, arrival, seq = heappop(held)
                freed.append((arrival, seq))
            if not held:
                del self._held[leader]
        return [seq for _, seq in sorted(freed)]

    def debug_check(self, held: set[Sequence]) -> None:
        """Assert that each of ``held`` waits for one leader, who has work left or left the batch; for tests."""
        followers = [seq for entries in self._held.values() for _, _, seq in entries]
        alive = [seq for seq in followers if seq.state is not SequenceState.FINISHED]
        assert len(alive) == len(held), "a follower waits for nobody, or for two"
        assert set(alive) == held, "a follower is not held back"

    def _place(self, seq: Sequence, end: int) -> _Place | None:
        """Where ``seq`` will write a whole page before token ``end``."""
        start = seq.table.num_indexed * self._page_size
        if start + self._page_size > end:
            return None
        return seq.table.path[-1], seq.token_ids[start : start + self._page_size].tobytes()

    def _common_tokens(self, ours: array[int], theirs: array[int]) -> int:
        """Tokens of the whole pages that both sequences begin with, less what ours computes in any case."""
        end = min(len(ours) - 1, len(theirs))
        differ = np.flatnonzero(np.frombuffer(ours[:end], np.int32) != np.frombuffer(theirs[:end], np.int32))
        same = int(differ[0]) if len(differ) else end
        return same - same % self._page_size
