"""The sequences that wait for the batch, in the order in which they will be taken.

The order is class, then those that have begun (a client reads them already), then the tenant with the least virtual
token count, then deadline, then arrival. Counts change in every step, so nothing is sorted by them: each group of one
class keeps a heap of its tenants, and each tenant a sorted list of its sequences. A step pays for the tenants that were
charged since they were last at the top, not for the queue's length.

A sequence that is held back (see ``followers``) stays in the queue, but is not in line until it is put back.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.engine.fairness import Account
from cluster.engine.growing_heap import GrowingHeap
from cluster.engine.sequence import Sequence

_Entry = tuple[float, int, Sequence]  # deadline and arrival, which nobody shares, so sequences are never compared
_Rank = tuple[int, bool]  # class, and whether nobody has seen anything of it yet


@dataclass(slots=True, eq=False)
class _Line:
    """One tenant's sequences in one group; never empty while it is in a group."""

    account: Account
    entries: list[_Entry]

    @property
    def key(self) -> tuple[float, ...]:
        deadline, arrival, _ = self.entries[0]
        return self.account.count, deadline, arrival


class _Group:
    """The lines of one rank."""

    def __init__(self) -> None:
        self.lines: dict[Account, _Line] = {}
        self._heap: GrowingHeap[_Line] = GrowingHeap(lambda line: line.key)

    def push(self, seq: Sequence) -> None:
        line = self.lines.get(seq.account)
        if line is None:
            line = self.lines[seq.account] = _Line(seq.account, [_entry(seq)])
            self._heap.push(line)
            return
        insort(line.entries, _entry(seq))
        if line.entries[0][2] is seq:
            self._heap.push(line)

    def remove(self, seq: Sequence) -> None:
        line = self.lines[seq.account]
        index = bisect_left(line.entries, _entry(seq))
        assert line.entries[index][2] is seq, "a line lost a sequence"
        del line.entries[index]
        if not line.entries:
            del self.lines[seq.account]
            self._heap.remove(line)

    def recount(self, account: Account) -> None:
        line = self.lines.get(account)
        if line is not None:
            self._heap.push(line)

    def head(self) -> Sequence:
        line = self._heap.peek()
        assert line is not None, "an empty group is kept"
        return line.entries[0][2]


class _Total:
    """Sequences of one class, held ones included, and their tokens."""

    __slots__ = ("sequences", "tokens")

    def __init__(self) -> None:
        self.sequences = self.tokens = 0


class Queue:
    """See the module's docstring. A sequence must not change while it is here, but for its account's count.

    Attributes:
        held: those that are not in line.
    """

    def __init__(self) -> None:
        self._members: dict[int, Sequence] = {}
        self.held: set[Sequence] = set()
        self._groups: dict[_Rank, _Group] = {}
        self._totals: dict[int, _Total] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, seq: Sequence) -> bool:
        return seq.attempt in self._members

    @property
    def num_tokens(self) -> int:
        """Tokens of all that wait."""
        return sum([total.tokens for total in self._totals.values()])

    @property
    def has_line(self) -> bool:
        """Whether anyone is in line, not only held back."""
        return bool(self._groups)

    def push(self, seq: Sequence) -> None:
        """Take ``seq`` in. O(log n) comparisons."""
        self._members[seq.attempt] = seq
        total = self._totals.setdefault(seq.priority, _Total())
        total.sequences += 1
        total.tokens += len(seq.token_ids)
        self._line_up(seq)

    def remove(self, seq: Sequence) -> None:
        """Take ``seq`` out, in line or held back."""
        del self._members[seq.attempt]
        total = self._totals[seq.priority]
        total.sequences -= 1
        total.tokens -= len(seq.token_ids)
        if not total.sequences:
            del self._totals[seq.priority]
        if seq in self.held:
            self.held.remove(seq)
        else:
            self._step_out(seq)

    def hold(self, seq: Sequence) -> None:
        """Let others pass ``seq`` until it is put back."""
        self._step_out(seq)
        self.held.add(seq)

    def put_back(self, seq: Sequence) -> None:
        """Let a held sequence stand where its order puts it."""
        self.held.remove(seq)
        self._line_up(seq)

    def recount(self, account: Account) -> None:
        """Take note that a count became smaller; that it grew is seen without."""
        for group in self._groups.values():
            group.recount(account)

    def heads(self) -> list[Sequence]:
        """The first of the first class that has begun and the first that has not, in this order; at most two."""
        if not self._groups:
            return []
        priority = min(self._groups)[0]
        groups = (self._groups.get((priority, is_fresh)) for is_fresh in (False, True))
        return [group.head() for group in groups if group is not None]

    def ahead_of(self, priority: int) -> tuple[int, int]:
        """Sequences of class ``priority`` and the classes before it, and their tokens."""
        totals = [total for each, total in self._totals.items() if each <= priority]
        return sum([total.sequences for total in totals]), sum([total.tokens for total in totals])

    def ordered(self) -> Iterator[Sequence]:
        """All in order, held ones at the end. O(n log n); for tests."""
        ranked = [seq for seq in self._members.values() if seq not in self.held]
        yield from sorted(ranked, key=lambda seq: (*_rank(seq), seq.account.count, *_entry(seq)[:2]))
        yield from sorted(self.held, key=lambda seq: seq.arrival)

    def _line_up(self, seq: Sequence) -> None:
        rank = _rank(seq)
        group = self._groups.get(rank)
        if group is None:
            group = self._groups[rank] = _Group()
        group.push(seq)

    def _step_out(self, seq: Sequence) -> None:
        rank = _rank(seq)
        group = self._groups[rank]
        group.remove(seq)
        if not group.lines:
            del self._groups[rank]

    def debug_check(self) -> None:
        """Assert that heads, lines and totals are those of the members. O(n log n); for tests."""
        lines = [entry[2] for group in self._groups.values() for line in group.lines.values() for entry in line.entries]
        members = list(self._members.values())
        assert len(lines) + len(self.held) == len(members), "someone stands in line twice, or not at all"
        assert {*lines, *self.held} == set(members), "a stranger stands in line"
        in_order = [seq for seq in self.ordered() if seq not in self.held]
        first = {_rank(seq): seq for seq in reversed(in_order)}
        assert self.heads() == [seq for rank, seq in sorted(first.items()) if rank[0] == in_order[0].priority], (
            "the head of the queue is not the first"
        )
        assert self.num_tokens == sum(len(seq.token_ids) for seq in members), "tokens are miscounted"


def _rank(seq: Sequence) -> _Rank:
    return seq.priority, seq.is_fresh


def _entry(seq: Sequence) -> _Entry:
    return seq.deadline_at, seq.arrival, seq
