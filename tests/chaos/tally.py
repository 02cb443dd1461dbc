"""What a run has seen, counted: how many turns of which kind, how they went, what was done to the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.chaos.case import Case
from tests.chaos.checker import told_deltas
from tests.chaos.kept import Kept
from tests.chaos.record import NO_CURSOR, Entry


def tally(entries: Iterable[Entry], kept: Kept) -> Counter[str]:
    """Counts by name."""
    case = Case(entries, kept)
    counts: Counter[str] = Counter()
    counts.update(f"asked: {ask.kind}" for ask in case.asks.values())
    counts.update(f"ended: {end.state}" for ends in case.ends.values() for end in ends)
    replies = [reply for replies in case.replies.values() for reply in replies]
    counts.update(f"sent again: {r.status or 'no answer'} {r.code}" for r in replies if not 200 <= r.status < 300)
    reads = [read for reads in case.reads.values() for read in reads]
    counts.update(f"stream: {read.end}" for read in reads)
    counts.update(f"resumed by {read.by}" for read in reads if read.cursor != NO_CURSOR)
    counts["events told"] = sum(len(read.events) for read in reads)
    for turn, record in case.kept.turns.items():
        counts["adoptions"] += case.adoptions(turn)
        counts["moves to another replica"] += record.moves
        counts["spliced behind starting_after"] += told_deltas(case, turn) not in {None, case.text(turn)}
    counts.update(f"harm: {act.kind}" for act in case.acts)
    counts["dead letters"] = kept.dead
    return counts
