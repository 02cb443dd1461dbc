"""How many dispatchers a queue needs, decided from what each of them says. Pure.

Dispatchers only wait for replicas: as many slots are wanted as there are jobs, and no more than replicas have room for.
Where these refuse some already, another dispatcher would only ask more often. A number rises fast and falls one by one,
for whoever goes hands its turns over.

Serve copies what its policy needs by value, so nothing here imports anything heavy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOW_USE = 0.5  # of the slots that would be left; fewer are wanted only below it


@dataclass(frozen=True, slots=True)
class Load:
    """What one dispatcher says.

    Attributes:
        jobs: waiting and in work in the whole queue.
        slots: jobs that it may have in work, at least 1.
        allowed: those that replicas have had room for.
    """

    jobs: float
    slots: float
    allowed: float


def wanted(loads: Sequence[Load], *, current: int, least: int, most: int) -> int:
    """The number of dispatchers, in [``least``, ``most``], that ``loads`` ask for.

    Args:
        loads: of the dispatchers that run; fewer than ``current`` while some are starting.
        current: dispatchers that there are or that were asked for.
        least: the smallest number allowed, at least 1.
        most: the largest number allowed.
    """
    current = min(max(current, least), most)
    if not loads:
        return current
    jobs, slots = max(load.jobs for load in loads), sum(load.slots for load in loads) / len(loads)
    needed = math.ceil(jobs / slots)
    if needed > current:
        is_refused = any(load.allowed < load.slots for load in loads)
        return current if is_refused else min(needed, 2 * current, most)
    enough = math.ceil(jobs / (LOW_USE * slots))
    return max(current - 1, least) if enough < current else current
