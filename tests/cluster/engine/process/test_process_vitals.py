"""A replica sees whether its engine's process is alive, and blames it for no pause but its own."""

from __future__ import annotations

import math
import os

from cluster.engine.process.vitals import SILENCE_S, TICK_S, Pulse, SharedVitals, create_shared_memory
from cluster.engine.step_pace import MIN_LIMIT_S, StepTimes, StepWatch
from tests.fakes.fake_clock import FakeClock


class Heart:
    """A beat under the test's hand."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.beat = 1.0
        self.pulse = Pulse(lambda: self.beat, self.clock)

    def pass_time(self, seconds: float, *, is_beating: bool) -> None:
        """Look every tick."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.now += TICK_S
            self.beat += is_beating
            self.pulse.check()


def test_a_beating_heart_is_never_silent() -> None:
    """For an hour."""
    heart = Heart()
    heart.pass_time(3600, is_beating=True)
    assert heart.pulse.silent_for_s == 0


def test_a_stopped_heart_is_noticed_and_its_return_too() -> None:
    """Not within the limit, but right after it; one beat ends the silence."""
    heart = Heart()
    heart.pass_time(SILENCE_S, is_beating=False)
    assert heart.pulse.silent_for_s == 0
    heart.pass_time(2 * TICK_S, is_beating=False)
    assert heart.pulse.silent_for_s == SILENCE_S + 2 * TICK_S
    heart.pass_time(TICK_S, is_beating=True)
    assert heart.pulse.silent_for_s == 0


def test_who_was_away_himself_blames_nobody() -> None:
    """After a pause of both, the child has its whole time to beat again."""
    heart = Heart()
    heart.clock.now += 600
    heart.pulse.check()
    heart.pass_time(SILENCE_S, is_beating=False)
    assert heart.pulse.silent_for_s == 0
    heart.pass_time(TICK_S, is_beating=False)
    assert heart.pulse.silent_for_s > 0


def test_steps_are_seen_through_the_shared_memory() -> None:
    """Two mappings of it: what the watch of one is told, the other tells."""
    clock = FakeClock(100.0)
    memory = create_shared_memory()
    writing, reading = SharedVitals(memory), SharedVitals(memory)
    os.close(memory)
    watch, times = StepWatch(clock, writing.slots), StepTimes(reading.slots, clock)
    assert (times.running_for_s(), times.is_stalled(), reading.last_beat()) == (0.0, False, 0.0)
    for _ in range(3):  # the first one warms up, the others are measured
        watch.begin(clock())
        watch.expect(8)
        watch.end(clock())
    watch.begin(clock())
    watch.expect(8)
    clock.now += MIN_LIMIT_S
    assert (times.running_for_s(), times.is_stalled()) == (MIN_LIMIT_S, False)
    clock.now += 1.0
    assert times.is_stalled()
    watch.end(clock())
    assert (times.running_for_s(), times.is_stalled()) == (0.0, False)
    writing.beat()
    assert 0 < reading.last_beat() < math.inf
