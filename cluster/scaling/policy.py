"""How many replicas a load needs, decided from what each replica says of itself. Pure, but for what a scaler remembers.

Two thresholds keep it still: more replicas are wanted above the higher one, fewer only where the rest would stay below
the lower one, so a load between them asks for nothing. Starting a replica costs a model's loading; stopping one loses
its KV caches, which every conversation pinned to it pays for with a prefill, so numbers rise fast and fall one by one.

How long a wish must last before it is carried out is Serve's to count (``upscale_delay_s``, ``downscale_delay_s``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HIGH_OCCUPANCY = 0.85  # of the places in the batches; beyond it, uneven pinning fills some before others
LOW_OCCUPANCY = 0.6
TARGET_WAIT_S = 5.0  # of prompts queued for computing, per replica
LOW_WAIT_S = 2.5
LONGEST_WAIT_S = 86_400.0  # that a replica's rate can stand for; one next to zero would make it endless
REST = 0.7  # of a load that was once too much for a number of replicas; below it that number is tried again


@dataclass(frozen=True, slots=True)
class Load:
    """What one replica says of itself.

    Attributes:
        running: turns in the batch.
        waiting: turns in the queue.
        waiting_tokens: prompt tokens to be computed for them.
        capacity: turns that the batch can hold, at least 1.
        prefill_rate: prompt tokens that it computes per second; 0 while unknown.
    """

    running: float
    waiting: float
    waiting_tokens: float
    capacity: float
    prefill_rate: float

    @property
    def turns(self) -> float:
        """Turns in all."""
        return self.running + self.waiting

    @property
    def wait_s(self) -> float:
        """Seconds of prompts to be computed; 0 while the rate is unknown."""
        return min(self.waiting_tokens / self.prefill_rate, LONGEST_WAIT_S) if self.prefill_rate > 0 else 0.0


def wanted(loads: Sequence[Load], *, current: int, least: int, most: int) -> int:
    """The number of replicas, in [``least``, ``most``], that ``loads`` ask for.

    Args:
        loads: of the replicas that run; fewer than ``current`` while some are starting.
        current: replicas that there are or that were asked for.
        least: the smallest number allowed, at least 1.
        most: the largest number allowed.
    """
    current = min(max(current, least), most)
    if not loads:
        return current
    turns, wait_s = sum(load.turns for load in loads), sum(load.wait_s for load in loads)
    capacity = sum(load.capacity for load in loads) / len(loads)
    needed = math.ceil(turns / (HIGH_OCCUPANCY * capacity))
    if wait_s > TARGET_WAIT_S * current and len(loads) >= current:  # those starting now may be enough
        needed = max(needed, current + max(1, current // 2))
    if needed > current:
        return min(needed, 2 * current, most)
    enough = max(math.ceil(turns / (LOW_OCCUPANCY * capacity)), 1 + math.ceil(wait_s / LOW_WAIT_S))
    return max(current - 1, least) if enough < current else current


class Scaler:
    """``wanted``, with a memory for numbers that proved too small.

    How much a replica bears is known only once it has borne it: on a CPU, for instance, a batch that is half full may
    be all that it can compute. So when a number has to be raised again, it is not tried anew at that load.
    """

    def __init__(self) -> None:
        self._current: int | None = None
        self._turns = 0.0
        self._came_down: dict[int, float] = {}  # number: turns in all when it was reached from above
        self._too_small: dict[int, float] = {}  # number: turns in all that it was once too small for

    def wanted(self, loads: Sequence[Load], *, current: int, least: int, most: int) -> int:
        """As the function; to be asked regularly."""
        self._remember(current)
        self._turns = sum(load.turns for load in loads)
        number = wanted(loads, current=current, least=least, most=most)
        if number < current <= most and self._turns > REST * self._too_small.get(number, math.inf):
            return current
        return number

    def _remember(self, current: int) -> None:
        if self._current is not None and current < self._current:
            self._came_down[current] = self._turns
        if self._current is not None and current > self._current and self._current in self._came_down:
            self._too_small[self._current] = self._came_down.pop(self._current)
        self._current = current
