"""What a replica sees of its engine's process without asking: a few numbers in memory that both share.

A process that hangs or was stopped answers nobody, so its step times and a beat of its event loop are looked at instead
of asked for. The memory has no name and is gone with the processes. One aligned float is written or read as a whole.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from typing import Final

BEAT_S: Final = 0.25
TICK_S: Final = 0.5
SILENCE_S: Final = 10.0  # well above a busy machine's hiccups: a process stopped in a step is found by the step's limit
LATE_S: Final = 1.0  # the looker itself was not running, as when the whole machine was paused

_BEAT = 2
_INITIAL = struct.pack("3d", float("inf"), float("inf"), 0.0)


class SharedVitals:
    """Slots 0 and 1 are those of ``StepTimes``, slot 2 is when the event loop of the engine's process last beat."""

    def __init__(self, fd: int) -> None:
        """Map the memory behind ``fd``, which may be closed afterwards."""
        self.slots: memoryview[float] = memoryview(mmap.mmap(fd, len(_INITIAL))).cast("d")

    def beat(self) -> None:
        """The loop comes round."""
        self.slots[_BEAT] = time.monotonic()

    def last_beat(self) -> float:
        """When it last did; 0 before the first time."""
        return self.slots[_BEAT]


def create_shared_memory() -> int:
    """A descriptor of new memory for ``SharedVitals``, closed on exec unless it is passed on."""
    fd = os.memfd_create("engine-vitals")
    os.write(fd, _INITIAL)
    return fd


class Pulse:
    """Finds a beat that has stopped. ``check`` it every ``TICK_S``; a check that comes late blames nobody.

    Attributes:
        silent_for_s: how long there was no beat, as of the last check; 0 while it is within the limit.
    """

    def __init__(self, last_beat: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._last_beat = last_beat
        self._clock = clock
        self._beat = last_beat()
        self._heard = self._checked = clock()
        self.silent_for_s = 0.0

    def check(self) -> None:
        """Look whether it has beaten since the last look."""
        now, beat = self._clock(), self._last_beat()
        if beat != self._beat or now - self._checked >= TICK_S + LATE_S:
            self._beat, self._heard = beat, now
        self._checked = now
        silence_s = now - self._heard
        self.silent_for_s = silence_s if silence_s > SILENCE_S else 0.0
