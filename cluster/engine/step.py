"""One step while it is being decided, and what its work costs the tenants.

A sequence stands in it at most once: who is preempted after it was scheduled comes back in a later step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.engine.fairness import COMPUTED, OUTPUT
from cluster.engine.sequence import Sequence


@dataclass(slots=True)
class Step:
    """A step being decided.

    Attributes:
        budget: tokens that may still be computed.
        promised: pages that running prompts will still ask for.
        is_charged: whether what is scheduled so far was charged.
        is_closed: whether nobody else comes into the batch.
        num_held: sequences held back for another's pages.
    """

    budget: int
    promised: int = 0
    is_charged: bool = False
    is_closed: bool = False
    num_held: int = 0
    decodes: list[Sequence] = field(default_factory=list)
    prefills: list[Sequence] = field(default_factory=list)


def cost(seq: Sequence) -> float:
    """Of what is scheduled. A decode's token was paid for when it was drawn."""
    if seq.num_remaining == 1:
        return OUTPUT
    return COMPUTED * seq.num_scheduled + (OUTPUT if seq.is_drawing else 0.0)
