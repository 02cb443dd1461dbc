"""The pinning policy at scale: who moves when replicas come and go, how even it spreads, what a decision costs.

Run: ``python -m tests.benchmarks.bench_pinning [--plot docs/benchmarks/pinning.svg]``. 100,000 conversations take turns
on 64 ranks, in one process and without Ray; what is measured is ``cluster/router/pinning.py`` and nothing else. About
six minutes on one core.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.router.pinning import Candidate, Wish, order, preferred
from tests.support.pinning_simulation import Conversation, Fleet, Simulation, Tally

RANKS = 64
CAPACITY = 64
BATCH = 16  # replicas that an update replaces at once
OCCUPANCIES = (0.5, 0.7, 0.8, 0.9, 0.95)
FLEETS = (2, 8, 64)
DECISIONS = 20_000


@dataclass(frozen=True)
class Cost:
    """µs of ``order`` and of all that the router asks of the policy (``order`` and ``preferred``), sorted."""

    order_us: list[float]
    both_us: list[float]


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--loaded-turns", type=int, default=100_000)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    costs = {size: cost(size) for size in FLEETS}
    print(cost_table(costs))  # noqa: T201 -- the tables are the output
    hinted = life(options.conversations, follows_hints=True)
    print(life_table("Stored conversations: the hint says where the KV is", hinted))  # noqa: T201 -- as above
    keyed = life(options.conversations // 5, follows_hints=False)
    print(life_table("Stateless chats: no hint, the key alone", keyed))  # noqa: T201 -- as above
    loads = {occupancy: loaded(options, occupancy) for occupancy in OCCUPANCIES}
    print(load_table(loads))  # noqa: T201 -- as above
    if options.plot:
        draw(options.plot, hinted, keyed, costs, loads)


# -- what happens to a fleet ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chapter:
    """What one event brought: the tallies of its rounds put together."""

    event: str
    tally: Tally
    conversations: int
    moves: Counter[int]  # conversations by how often they moved
    shares: list[int]  # conversations of each replica afterwards

    @property
    def share(self) -> float:
        """Moves per conversation."""
        return self.tally.moved / self.conversations


def life(conversations: int, *, follows_hints: bool) -> list[Chapter]:
    """Everything that may happen to a fleet, one after another; all conversations take turns in between."""
    fleet = Fleet(RANKS)
    simulation = Simulation(fleet, _fresh(conversations), follows_hints=follows_hints)
    return [_chapter(simulation, event, steps) for event, steps in _events(fleet)]


def _fresh(number: int) -> Iterator[Conversation]:
    return (Conversation(f"{random.Random(i).getrandbits(128):032x}") for i in range(number))


def _events(fleet: Fleet) -> Iterator[tuple[str, Iterator[None]]]:
    """Events by name; each step of one is followed by a turn of every conversation."""
    yield "first turns", _once(lambda: None)
    yield "second turns, nothing happened", _once(lambda: None)
    yield "rolling update, 16 new before 16 old end", _update(fleet, has_surge=True)
    yield "one replica dies", _once(lambda: fleet.lose(_at(fleet, 17)))
    yield "its replacement starts", _once(fleet.fill)
    yield "four die at once", _once(lambda: [fleet.lose(_at(fleet, rank)) for rank in (3, 20, 41, 63)])
    yield "their replacements start", _once(fleet.fill)
    yield "scale 64 → 48", _once(lambda: (fleet.resize(48), fleet.settle()))
    yield "scale 48 → 64", _once(lambda: fleet.resize(RANKS))
    yield "another update, 16 new before 16 old end", _update(fleet, has_surge=True)
    yield "another update, 16 old end before 16 new", _update(fleet, has_surge=False)


def _once(act: Callable[[], object]) -> Iterator[None]:
    act()
    yield


def _at(fleet: Fleet, rank: int) -> str:
    return next(name for name, held in fleet.ranks.items() if held == rank)


def _update(fleet: Fleet, *, has_surge: bool) -> Iterator[None]:
    old = list(fleet.ranks)
    for begin in range(0, len(old), BATCH):
        batch = old[begin : begin + BATCH]
        for name in batch:
            if has_surge:
                fleet.start()
            fleet.drain(name)
        yield
        fleet.settle()
        fleet.fill()
    yield


def _chapter(simulation: Simulation, event: str, steps: Iterator[None]) -> Chapter:
    begun = [conversation.moves for conversation in simulation.conversations]
    whole = Tally()
    for _ in steps:
        _add(whole, simulation.round())
    moves = Counter(c.moves - before for c, before in zip(simulation.conversations, begun, strict=True))
    held = Counter(conversation.last for conversation in simulation.conversations)
    shares = [held[name] for name in simulation.fleet.ranks]
    return Chapter(event, whole, len(simulation.conversations), moves, shares)


def _add(whole: Tally, part: Tally) -> None:
    whole.turns += part.turns
    whole.victims += part.victims
    whole.moved += part.moved
    whole.bystanders += part.bystanders
    whole.returns += part.returns


def life_table(title: str, chapters: list[Chapter]) -> str:
    """Markdown: one row per event."""
    rows = [
        f"\n{title}; {chapters[0].conversations:,} of them:\n",
        "| event | replica gone, % | moved, % | others moved | moved back | moved twice or more, % | max ÷ mean | σ ÷ chance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for chapter in chapters:
        tally, number = chapter.tally, chapter.conversations
        often = sum(count for moves, count in chapter.moves.items() if moves > 1)
        rows.append(
            f"| {chapter.event} | {tally.victims / number:.2%} | {chapter.share:.2%} | {tally.bystanders} "
            f"| {tally.returns} | {often / number:.2%} | {_peak(chapter.shares):.2f} | {_unevenness(chapter.shares):.2f} |"
        )
    return "\n".join(rows)


def _peak(shares: list[int]) -> float:
    return max(shares) / statistics.fmean(shares)


def _unevenness(shares: list[int]) -> float:
    """Standard deviation over the ranks against that of throwing dice, √(mean · (1 - 1/n)); 1 is a perfect hash."""
    mean = statistics.fmean(shares)
    return statistics.pstdev(shares) / (mean * (1 - 1 / len(shares))) ** 0.5


# -- under load --------------------------------------------------------------------------------------------------------


def loaded(options: argparse.Namespace, occupancy: float) -> Tally:
    """Overlapping turns on replicas of 64 places each."""
    simulation = Simulation(Fleet(RANKS, CAPACITY), _fresh(options.conversations))
    return simulation.busy(options.loaded_turns, occupancy, random.Random(1))


def load_table(loads: dict[float, Tally]) -> str:
    """Markdown: one row per occupancy."""
    rows = [
        f"\nUnder load: {RANKS} replicas of {CAPACITY} places, turns come and end at random:\n",
        "| places taken | pinned | spilled | moved | to a full replica | misplaced |",
        "|---|---|---|---|---|---|",
    ]
    for occupancy, tally in loads.items():
        shares = " | ".join(f"{tally.reasons[why] / tally.turns:.2%}" for why in ("pinned", "spilled", "moved"))
        rows.append(f"| {occupancy:.0%} | {shares} | {tally.overfull / tally.turns:.2%} | {tally.misplaced} |")
    return "\n".join(rows)


# -- what a decision costs ---------------------------------------------------------------------------------------------


def cost(size: int) -> Cost:
    """Time decisions over a fleet, every second one with a hint."""
    fleet = Fleet(size)
    candidates, names = fleet.candidates(), list(fleet.ranks)
    taken: list[tuple[int, int]] = []
    for i, conversation in enumerate(_fresh(DECISIONS)):
        wish = Wish(conversation.pin_key, names[i % size] if i % 2 else "")
        taken.append(_timed(candidates, wish))
    return Cost(sorted(a / 1e3 for a, _ in taken), sorted(b / 1e3 for _, b in taken))


def _timed(candidates: list[Candidate], wish: Wish) -> tuple[int, int]:
    begin = time.perf_counter_ns()
    order(candidates, wish)
    ordered = time.perf_counter_ns()
    preferred(candidates, wish)
    return ordered - begin, time.perf_counter_ns() - begin


def cost_table(costs: dict[int, Cost]) -> str:
    """Markdown: one row per fleet."""
    rows = [
        "µs per decision (`order`; budget 3 µs a candidate) and with `preferred`, as the router calls both:\n",
        "| replicas | order p50 | p99 | a candidate | both p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for size, taken in costs.items():
        p50, p99 = _percentiles(taken.order_us)
        both50, both99 = _percentiles(taken.both_us)
        rows.append(f"| {size} | {p50:.1f} | {p99:.1f} | {p50 / size:.2f} | {both50:.1f} | {both99:.1f} |")
    return "\n".join(rows)


def _percentiles(ordered: list[float]) -> tuple[float, float]:
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


# -- plot --------------------------------------------------------------------------------------------------------------


def draw(
    file: Path, hinted: list[Chapter], keyed: list[Chapter], costs: dict[int, Cost], loads: dict[float, Tally]
) -> None:
    """Moved share by event, spilled share by load, µs by replicas; equal numbers give equal bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": file.name}):
        figure = Figure(figsize=(11, 4), layout="constrained")
        moves, load, price = figure.subplots(1, 3, width_ratios=(2.2, 1, 1))
        places = range(1, len(hinted))
        for offset, name, chapters in ((-0.2, "with hint", hinted), (0.2, "key alone", keyed)):
            moves.barh([p + offset for p in places], [100 * c.share for c in chapters[1:]], 0.4, label=name)
        moves.set(yticks=places, yticklabels=[c.event for c in hinted[1:]], xlabel="moved turns per 100 conversations")
        moves.invert_yaxis()
        moves.legend()
        load.plot([100 * o for o in loads], [100 * t.reasons["spilled"] / t.turns for t in loads.values()], marker="o")
        load.set(xlabel="places taken, %", ylabel="spilled turns, %")
        for label, pick in (("p50", 0), ("p99", 1)):
            price.plot(list(costs), [_percentiles(c.order_us)[pick] for c in costs.values()], marker="o", label=label)
        price.plot(list(costs), [3 * size for size in costs], "--", label="budget")
        price.set(xlabel="replicas", ylabel="µs per decision", xscale="log", yscale="log")
        price.legend()
        figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
