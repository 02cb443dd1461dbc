"""How long a step may take, learnt from the steps before it, and whether the one under way takes too long.

A step costs a fixed part and a part per token, so it never costs more than a larger step, nor more per token than a
smaller one. Either bound lets one measurement speak for sizes that were not measured yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

FADE = 0.98  # of the slowest step of a size, with each later step of that size
MIN_LIMIT_S = 3.0
UNMEASURED_LIMIT_S = 60.0
SLACK = 10.0  # contexts differ, and other processes come and go


class StepPace:
    """Seconds of a step by its number of tokens, on the slow side. Pure.

    Sizes that share a bit length are taken as one, so a prediction is at most twice the slowest step of its size.
    """

    def __init__(self) -> None:
        self._slowest: dict[int, float] = {}  # bit length of the size: seconds for the largest size of that length

    def observe(self, tokens: int, seconds: float) -> None:
        """Record a step of ``tokens`` (at least 1) that took ``seconds``."""
        length = tokens.bit_length()
        seconds *= _largest(length) / tokens
        self._slowest[length] = max(seconds, FADE * self._slowest.get(length, 0.0))

    def predict(self, tokens: int) -> float | None:
        """Seconds that a step of ``tokens`` should not exceed; None before the first measurement."""
        length = tokens.bit_length()
        if length in self._slowest:
            return self._slowest[length]
        bounds = [seconds * max(1.0, tokens / _largest(other)) for other, seconds in self._slowest.items()]
        return min(bounds, default=None)


def _largest(bit_length: int) -> int:
    return (1 << bit_length) - 1


class Slots(Protocol):
    """Two floats: when the step under way began, and when it is overdue; infinity between steps."""

    def __getitem__(self, index: int, /) -> float:
        """Read one of them."""
        ...

    def __setitem__(self, index: int, value: float, /) -> None:
        """Write one of them; readers see the old value or the new one."""
        ...


_BEGAN, _DUE = 0, 1


class StepTimes:
    """The step under way, to look at from any thread or process: each answer is made of one value."""

    def __init__(self, slots: Slots, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is that of whoever writes ``slots``; time.monotonic is the same in all processes of a machine."""
        self._slots = slots
        self._clock = clock

    def running_for_s(self) -> float:
        """Seconds since the step under way began; 0 between steps."""
        return max(self._clock() - self._slots[_BEGAN], 0.0)

    def is_stalled(self) -> bool:
        """Whether the step under way has taken longer than ten times what was to be expected, and over 3 s."""
        return self._clock() > self._slots[_DUE]


class StepWatch(StepTimes):
    """Told of every step by the engine's thread; learns what to expect of the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, slots: Slots | None = None) -> None:
        """``clock`` is the engine's; ``slots`` may lie in memory that another process reads."""
        super().__init__([math.inf, math.inf] if slots is None else slots, clock)
        self._pace = StepPace()
        self._is_warm = False
        self._tokens = 0  # 0: nothing to be learnt from the step

    def begin(self, now: float) -> None:
        """A step begins at ``now``, its size not known yet."""
        self._slots[_BEGAN] = now
        self._slots[_DUE] = now + UNMEASURED_LIMIT_S

    def expect(self, tokens: int) -> None:
        """The step that began computes ``tokens``."""
        predicted = self._pace.predict(tokens)
        limit_s = UNMEASURED_LIMIT_S if predicted is None else max(MIN_LIMIT_S, SLACK * predicted)
        self._slots[_DUE] = self._slots[_BEGAN] + limit_s
        self._tokens = tokens

    def end(self, now: float, *, is_measure: bool = True) -> None:
        """The step ended at ``now``; ``is_measure`` is False when it failed.

        Time over the limit is not learnt from: a process that was stopped for a minute is not slower afterwards. Nor
        is the first step, which warms up whatever is loaded or compiled at first use.
        """
        if self._tokens and is_measure:
            if self._is_warm:
                self._pace.observe(self._tokens, min(now, self._slots[_DUE]) - self._slots[_BEGAN])
            self._is_warm = True
        self._tokens = 0
        self._slots[_BEGAN] = self._slots[_DUE] = math.inf
