"""How fast a batch gives up places and how fast prompts are computed, measured as it happens.

Rates are per second of a sequence's time in the batch, not per second of the day: an idle hour measures nothing and
changes nothing. Old measurements fade with a half-life of 30 s of work.
"""

from __future__ import annotations

import math

HALF_LIFE_S = 30.0
GRAIN_S = 0.2  # between two looks at a batch of one size; its pages change in nearly every step


class QueuePace:
    """Measurements of one engine. Each rate is None until something was measured.

    Attributes:
        prefill_rate: prompt tokens per second while prompts queue.
        computed_share: share of a sequence's tokens that were not found in the cache; 1 until one was admitted.
    """

    def __init__(self) -> None:
        self.prefill_rate: float | None = None
        self.computed_share = 1.0
        self._since, self._running, self._pages = 0.0, 0, 0  # levels of the time under way
        self._places = _Ratio()  # sequences that left the batch, per second in it
        self._size = _Ratio()  # pages held, per sequence
        self._prefill = _Ratio()  # tokens, per second of steps that were full of them
        self._share = _Ratio()  # tokens to compute, per token of an admitted sequence

    def observe(self, now: float, *, running: int, pages: int) -> None:
        """From ``now`` on ``running`` sequences are in the batch and hold ``pages``."""
        if running == self._running and now - self._since < GRAIN_S:
            return
        if self._running:
            elapsed_s = now - self._since
            seconds = elapsed_s * self._running
            keep = _keep(elapsed_s)
            self._places.add(0, seconds, keep)
            self._size.add(elapsed_s * self._pages, seconds, keep)
        self._since, self._running, self._pages = now, running, pages

    def leave(self) -> None:
        """A sequence has left the batch for good."""
        self._places.add(1, 0)

    def admit(self, *, tokens: int, found: int) -> None:
        """A sequence of ``tokens`` came into the batch; ``found`` of them were in the cache."""
        self._share.add(tokens - found, tokens, keep=0.98)
        self.computed_share = self._share.value or 0.0

    def prefill(self, *, tokens: int, seconds: float) -> None:
        """A step had no room left for more prompt tokens, took ``seconds`` and computed ``tokens`` of them."""
        self._prefill.add(tokens, seconds, _keep(seconds))
        self.prefill_rate = self._prefill.value

    def leave_rate(self, *, max_seqs: int, max_pages: int) -> float | None:
        """Sequences per second that leave a batch with no free place.

        How many such a batch holds follows from the pages that a sequence was seen to hold: up to ``max_seqs``.
        """
        rate, size = self._places.value, self._size.value
        if not rate:
            return None
        places = min(max_seqs, max_pages / size) if size else max_seqs
        return rate * max(1.0, places)


class _Ratio:
    """A fading sum over a fading sum."""

    __slots__ = ("_over", "_under")

    def __init__(self) -> None:
        self._over = self._under = 0.0

    def add(self, over: float, under: float, keep: float = 1.0) -> None:
        self._over = self._over * keep + over
        self._under = self._under * keep + under

    @property
    def value(self) -> float | None:
        return self._over / self._under if self._under > 0 else None


def _keep(elapsed_s: float) -> float:
    return math.exp2(-elapsed_s / HALF_LIFE_S)
