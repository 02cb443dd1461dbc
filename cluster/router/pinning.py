"""Which replica a turn goes to, as a pure function of what is known about the replicas.

The hint (where the conversation's KV is) comes first, while that incarnation lives. Else a rendezvous hash over replica
*ranks*: a replacement takes its predecessor's rank, so a restart moves nobody else's conversations. A replica at its
own capacity is passed over in rendezvous order; load relative to the others never matters (with few turns it would
spill everybody).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
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
    """What a turn asks of the router. ``pin_key`` is already hashed with the tenant; "" has no preference."""

    pin_key: str
    hint: str = ""  # incarnation that holds the conversation's KV
    avoid: Collection[str] = ()


def score(pin_key: str, rank: int) -> int:
    """Weight of a rank for a key: highest-random-weight (rendezvous) hashing, Thaler and Ravishankar 1996."""
    return int.from_bytes(hashlib.blake2b(f"{rank}:{pin_key}".encode(), digest_size=8).digest())


def order(candidates: Sequence[Candidate], wish: Wish) -> list[Candidate]:
    """All candidates, best first. Budget: 3 µs per candidate.

    Full replicas come after those with room, avoided ones last of all: a turn that only they can take still goes there.
    Ties (two replicas claiming one rank for a second) fall by incarnation.
    """
    ranked = sorted(candidates, key=lambda c: (-_weight(c, wish), c.incarnation))
    return sorted(ranked, key=lambda c: (c.incarnation in wish.avoid, c.is_full))


def _weight(candidate: Candidate, wish: Wish) -> float:
    if wish.hint and candidate.incarnation == wish.hint:
        return float("inf")
    if not wish.pin_key:
        return -candidate.load
    return score(wish.pin_key, candidate.rank)


def reason(wish: Wish, *, first: str, hint_alive: bool, chosen: str) -> str:
    """Why ``chosen`` serves the turn: ``placed``, ``pinned``, ``spilled`` or ``moved``.

    Args:
        wish: what the turn asked for.
        first: incarnation that comes first when load is ignored.
        hint_alive: whether the hinted incarnation is among the candidates and not avoided.
        chosen: incarnation that took the turn.
    """
    if wish.hint:
        if chosen == wish.hint:
            return "pinned"
        return "spilled" if hint_alive else "moved"
    if wish.avoid:
        return "moved"
    if not wish.pin_key:
        return "placed"
    return "pinned" if chosen == first else "spilled"


def preferred(candidates: Sequence[Candidate], wish: Wish) -> str:
    """Incarnation that comes first when load is ignored; "" without candidates."""
    allowed = [c for c in candidates if c.incarnation not in wish.avoid] or candidates
    ranked = sorted(allowed, key=lambda c: (-_weight(c, wish), c.incarnation))
    return ranked[0].incarnation if ranked else ""
