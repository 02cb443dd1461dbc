"""What the turns of one process add up to, in plain integers.

Nothing here knows prometheus: the gateway mirrors these numbers about once a second, because a metric call per token
costs more than the token's whole way through this package. Counters only grow; readers take differences.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from cluster.errors import ClusterError

TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Histogram:
    """Observations by fixed upper bounds.

    Attributes:
        bounds: inclusive upper bounds, ascending, in the unit of the values.
        counts: one per bound and one for all above; not cumulative.
        total: the sum of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, weight: int = 1) -> None:
        """Add ``weight`` observations of the same value."""
        self.counts[bisect_left(self.bounds, value)] += weight
        self.total += value * weight


@dataclass(slots=True)
class TurnMetrics:
    """Counters of one process since its start.

    Attributes:
        ttft_s: seconds from a turn's arrival to an answer's first id; each of several answers counts.
        latency_s: seconds from id to id of one answer; ids of one frame share the time since the frame before.
        turns: ended turns by ``completed``, ``incomplete``, ``failed``, ``cancelled`` or ``refused`` (never started).
        active: level: turns under way now.
        prompt_tokens: tokens of the prompts that were served.
        cached_tokens: those whose KV was found.
        output_tokens: ids received.
        moves: attempts that went on elsewhere.
        adoptions: turns gone on with whose owner had died, or that had waited.
        resumes: streams that were picked up behind an event.
        diverged: of those, streams whose answer was not the one begun.
        pins: first placements by the router's ``why``.
        errors: turns that ended in an error, by its code.
        tool_calls: answers that began as a call: ``called``, ``cut`` (by the token limit) or ``malformed``.
        index_hits: answers of stateless histories whose sampled ids were found.
        index_misses: those that had to be encoded again.
    """

    ttft_s: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS_S))
    latency_s: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_S))
    turns: Counter[str] = field(default_factory=Counter)
    active: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    moves: int = 0
    adoptions: int = 0
    resumes: int = 0
    diverged: int = 0
    pins: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    tool_calls: Counter[str] = field(default_factory=Counter)
    index_hits: int = 0
    index_misses: int = 0


class Stopwatch:
    """Times the ids of one answer into the metrics, one call per frame."""

    __slots__ = ("_clock", "_last", "_metrics", "_started")

    def __init__(self, metrics: TurnMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._last = clock()
        self._started = False

    def lap(self, ids: int) -> None:
        """``ids`` new ids (at least one) have just come."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        self._metrics.output_tokens += ids
        if self._started:
            self._metrics.latency_s.observe(elapsed / ids, ids)
            return
        self._started = True
        self._metrics.ttft_s.observe(elapsed)
        if ids > 1:
            self._metrics.latency_s.observe(0.0, ids - 1)


class Account:
    """Books one turn when its block is left: an error by its code, any other early exit as ``cancelled``.

    Attributes:
        outcome: of a turn that ends in order; its owner sets it.
        is_started: whether a replica has served the turn; an error before that refuses it, one after it fails it.
        is_void: there was no turn of its own after all; nothing is booked.
    """

    __slots__ = ("_metrics", "is_started", "is_void", "outcome")

    def __init__(self, metrics: TurnMetrics) -> None:
        self._metrics = metrics
        self.outcome = "cancelled"
        self.is_started = False
        self.is_void = False

    def __enter__(self) -> Self:
        self._metrics.active += 1
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._metrics.active -= 1
        if self.is_void:
            return
        if isinstance(error, Exception):
            self.outcome = "failed" if self.is_started else "refused"
            code = error.code if isinstance(error, ClusterError) else ClusterError.code
            self._metrics.errors[code] += 1
        self._metrics.turns[self.outcome] += 1
