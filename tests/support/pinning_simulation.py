"""Conversations over a fleet of replicas that comes and goes: the pinning policy driven without Ray or time.

The fleet does with ranks what Ray Serve does: a new replica takes the lowest free rank, also beyond the fleet's size
while its predecessor still drains, and ranks beyond the size are renumbered only some time after the predecessor left.
A draining replica finishes its turns but is no candidate any more.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cluster.router.pinning import Candidate, Wish, folded, order, preferred, reason

ROOMY = 1_000_000  # a capacity that nobody reaches


class Fleet:
    """Replicas by incarnation. ``size`` is how many the deployment should have.

    Attributes:
        ranks: of the replicas that take turns, as Serve gave them.
        draining: ranks of those that only finish theirs.
        load: turns that each replica holds now.
    """

    def __init__(self, size: int, capacity: int = ROOMY) -> None:
        self.size = size
        self.capacity = capacity
        self.ranks: dict[str, int] = {}
        self.draining: dict[str, int] = {}
        self.load: Counter[str] = Counter()
        self._started = 0
        self.fill()

    def start(self) -> str:
        """One more replica, on the lowest rank that nobody holds; its name."""
        taken = {*self.ranks.values(), *self.draining.values()}
        name = f"replica#{self._started:08x}"
        self._started += 1
        self.ranks[name] = min(rank for rank in range(len(taken) + 1) if rank not in taken)
        return name

    def fill(self) -> None:
        """Start what is missing."""
        while len(self.ranks) < self.size:
            self.start()

    def lose(self, name: str) -> None:
        """A replica is dead."""
        del self.ranks[name]

    def drain(self, name: str) -> None:
        """A replica takes no more turns and still holds its rank."""
        self.draining[name] = self.ranks.pop(name)

    def settle(self) -> None:
        """Drained replicas are gone; ranks beyond the size move into the holes, as Serve does in the end."""
        self.draining.clear()
        self.ranks = folded(self.ranks, self.size)

    def resize(self, size: int) -> None:
        """Scale: down drains the youngest replicas, as Serve does."""
        self.size = size
        for name in list(self.ranks)[size:]:
            self.drain(name)
        self.fill()

    def candidates(self) -> list[Candidate]:
        """The replicas that take turns, as the router sees them."""
        ranks = folded(self.ranks, self.size)
        return [Candidate(name, rank, self.load[name], self.capacity) for name, rank in ranks.items()]


@dataclass(slots=True)
class Conversation:
    """What is kept of one: the incarnation that served last (the hint, as commit writes it) and those before."""

    pin_key: str
    last: str = ""
    before: set[str] = field(default_factory=set)
    moves: int = 0

    def served_by(self, incarnation: str) -> None:
        """A turn of it has ended there."""
        if self.last and incarnation != self.last:
            self.before.add(self.last)
            self.moves += 1
        self.last = incarnation


@dataclass
class Tally:
    """What some turns brought.

    Attributes:
        turns: all of them.
        victims: turns whose conversation's last replica takes turns no more.
        moved: turns served elsewhere than the one before.
        bystanders: moved turns whose conversation's last replica still takes turns.
        returns: moved turns that came where their conversation had been earlier.
        overfull: turns that came to a full replica.
        misplaced: turns that came to a full replica while another had room, or left one that had room.
        reasons: by the router's own word.
        shares: turns by replica.
    """

    turns: int = 0
    victims: int = 0
    moved: int = 0
    bystanders: int = 0
    returns: int = 0
    overfull: int = 0
    misplaced: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    shares: Counter[str] = field(default_factory=Counter)


class Simulation:
    """Conversations that take turns on a fleet.

    ``follows_hints``: as stored conversations do; stateless chats carry none and go by their key alone.
    """

    def __init__(self, fleet: Fleet, conversations: Iterable[Conversation], *, follows_hints: bool = True) -> None:
        self.fleet = fleet
        self.conversations = list(conversations)
        self._follows_hints = follows_hints

    def round(self) -> Tally:
        """Every conversation takes one turn, one after another."""
        tally, candidates = Tally(), self.fleet.candidates()
        for conversation in self.conversations:
            self._turn(conversation, candidates, tally)
        return tally

    def busy(self, turns: int, occupancy: float, rng: random.Random) -> Tally:
        """Turns that overlap: they arrive at random and last at random, both without memory.

        Args:
            turns: how many are counted, after as many as it takes to fill the fleet twice.
            occupancy: mean turns under way, as a share of the fleet's whole capacity.
            rng: draws conversations, arrivals and lengths.
        """
        slots = self.fleet.size * self.fleet.capacity
        tally, ends, now = Tally(), list[tuple[float, str]](), 0.0
        for number in range(turns + 2 * slots):
            now += rng.expovariate(occupancy * slots)  # a turn lasts 1 in the mean
            while ends and ends[0][0] <= now:
                self.fleet.load[heapq.heappop(ends)[1]] -= 1
            if number == 2 * slots:
                tally = Tally()
            chosen = self._turn(rng.choice(self.conversations), self.fleet.candidates(), tally)
            self.fleet.load[chosen] += 1
            heapq.heappush(ends, (now + rng.expovariate(1), chosen))
        return tally

    def _turn(self, conversation: Conversation, candidates: list[Candidate], tally: Tally) -> str:
        wish = Wish(conversation.pin_key, conversation.last if self._follows_hints else "")
        chosen = order(candidates, wish)[0]
        is_alive = conversation.last in self.fleet.ranks
        first = preferred(candidates, wish)
        assert first is not None
        why = reason(wish, first=first.incarnation, is_first_full=first.is_full, chosen=chosen.incarnation)
        tally.reasons[why] += 1
        tally.overfull += chosen.is_full
        tally.misplaced += _is_misplaced(conversation, chosen, candidates)
        _count(tally, conversation, chosen.incarnation, is_alive=is_alive)
        conversation.served_by(chosen.incarnation)
        return chosen.incarnation


def _is_misplaced(conversation: Conversation, chosen: Candidate, candidates: list[Candidate]) -> bool:
    if chosen.is_full:
        return not all(candidate.is_full for candidate in candidates)
    if chosen.incarnation == conversation.last:
        return False
    return any(c.incarnation == conversation.last and not c.is_full for c in candidates)


def _count(tally: Tally, conversation: Conversation, chosen: str, *, is_alive: bool) -> None:
    tally.turns += 1
    tally.shares[chosen] += 1
    if not conversation.last:
        return
    tally.victims += not is_alive
    if chosen != conversation.last:
        tally.moved += 1
        tally.bystanders += is_alive
        tally.returns += chosen in conversation.before
