"""Which replica a turn goes to, as a pure function of what is known about the replicas.

The hint (where the conversation's KV is) comes first, while that incarnation lives. Else a rendezvous hash over replica
*ranks*: a replacement takes its predecessor's rank, so a restart moves nobody else's conversations. A replica at its
own capacity is passed over in rendezvous order; load relative to the others never matters (with few turns it would
spill everybody).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica as a router sees it. ``load`` and ``capacity`` count turns."""

    incarnation: str
    rank: int
    load: int
    capacity: int

    @property
    def is_full(self) -> bool:
        """Whether one more turn would have to wait for a place in the batch."""
        return self.load >= self.capacity


@dataclass(frozen=True, slots=True)
class Wish:
    """What a turn asks of the router.

    Attributes:
        pin_key: already hashed with the tenant; "" has no preference.
        hint: incarnation that holds the conversation's KV; "" for none.
        avoid: incarnations that lost this very turn.
        suspects: incarnations that the turn's process takes for dead, the latest first. At most half of the replicas
            are passed over for this: a process that hears of nobody is more likely to be cut off itself.
    """

    pin_key: str
    hint: str = ""
    avoid: Collection[str] = ()
    suspects: Sequence[str] = ()


def score(pin_key: str, rank: int) -> int:
    """Weight of a rank for a key: highest-random-weight (rendezvous) hashing, Thaler and Ravishankar 1996."""
    return int.from_bytes(hashlib.blake2b(f"{rank}:{pin_key}".encode(), digest_size=8).digest())


def avoided(incarnations: Collection[str], wish: Wish) -> frozenset[str]:
    """Who is asked last of all: those that lost the turn, and the latest suspects up to half of the replicas."""
    suspects = [suspect for suspect in wish.suspects if suspect in incarnations]
    return frozenset((*wish.avoid, *suspects[: len(incarnations) // 2]))


def order(candidates: Sequence[Candidate], wish: Wish) -> list[Candidate]:
    """All candidates, best first. Budget: 3 µs per candidate.

    Full replicas come after those with room, avoided ones last of all: a turn that only they can take still goes there.
    Among these, suspects come last, the latest one behind the others: a turn that has lost all of them does not ask the
    frozen one again and again.
    Ties (two replicas claiming one rank for a second) fall by incarnation.
    """
    doubts = _doubts([c.incarnation for c in candidates], wish)
    return sorted(candidates, key=lambda c: (doubts.get(c.incarnation, 0), c.is_full, -_weight(c, wish), c.incarnation))


def _doubts(incarnations: Collection[str], wish: Wish) -> dict[str, int]:
    """Those who are avoided, with how doubtful each is."""
    places = {suspect: len(wish.suspects) - place for place, suspect in enumerate(wish.suspects)}
    return {incarnation: 1 + places.get(incarnation, 0) for incarnation in avoided(incarnations, wish)}


def _weight(candidate: Candidate, wish: Wish) -> float:
    if wish.hint and candidate.incarnation == wish.hint:
        return float("inf")
    if not wish.pin_key:
        return -candidate.load
    return score(wish.pin_key, candidate.rank)


def reason(wish: Wish, *, first: str, is_first_full: bool, chosen: str) -> str:
    """Why ``chosen`` serves the turn: ``placed``, ``pinned``, ``spilled`` or ``moved``.

    Args:
        wish: what the turn asked for.
        first: incarnation that comes first when load is ignored.
        is_first_full: whether that one was at its capacity. If not, and it does not serve, it could not be reached.
        chosen: incarnation that took the turn.
    """
    if chosen == wish.hint:
        return "pinned"
    if not (wish.hint or wish.avoid or wish.pin_key):
        return "placed"
    if chosen == first:
        return "moved" if wish.hint or wish.avoid else "pinned"
    return "spilled" if is_first_full else "moved"


def preferred(candidates: Sequence[Candidate], wish: Wish) -> Candidate | None:
    """Who comes first when load is ignored; None without candidates."""
    last = avoided([c.incarnation for c in candidates], wish)
    return min(candidates, key=lambda c: (c.incarnation in last, -_weight(c, wish), c.incarnation), default=None)


def published_load(load: int, capacity: int) -> int:
    """A load as replicas tell it to all routers: rounded down to an eighth of the capacity, full only when it is.

    Each change is broadcast to every router, so small ones are not worth telling.
    """
    return load - load % max(1, capacity // 8)


def folded(ranks: Mapping[str, int], size: int) -> dict[str, int]:
    """The ranks by incarnation, those of ``size`` and above put into the holes below it, in order.

    A replacement that starts while its predecessor still drains gets a rank beyond the deployment's size, and its
    predecessor's only later. Folded, it has that one from the beginning, so that nobody moves twice.

    Args:
        ranks: by incarnation, as Serve gave them.
        size: replicas that the deployment should have; 0 where that is unknown or not fixed.
    """
    beyond = sorted((rank, name) for name, rank in ranks.items() if rank >= size)
    holes = _holes(ranks.values(), size)
    return {**ranks, **{name: hole for (_, name), hole in zip(beyond, holes, strict=False)}}


def _holes(taken: Iterable[int], size: int) -> list[int]:
    return sorted(set(range(size)).difference(taken))
