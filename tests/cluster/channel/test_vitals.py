"""Who has fallen silent, told by a clock that the test turns."""

from __future__ import annotations

from cluster.channel.vitals import Vitals
from tests.fakes.fake_clock import FakeClock


def vitals(clock: FakeClock) -> Vitals[str]:
    return Vitals(silence_s=3, tick_s=0.1, clock=clock)


def pass_time(clock: FakeClock, watch: Vitals[str], seconds: float, *, speaking: str = "") -> list[str]:
    """Check ten times a second; ``speaking`` is heard each time. The names found silent in the end."""
    silent: list[str] = []
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        if speaking:
            watch.hear(speaking)
        silent = watch.check()
    return silent


def test_who_says_nothing_for_three_seconds_is_silent() -> None:
    """And who speaks is not."""
    clock = FakeClock()
    watch = vitals(clock)
    watch.hear("frozen")
    assert pass_time(clock, watch, 2.9, speaking="alive") == []
    assert pass_time(clock, watch, 0.3, speaking="alive") == ["frozen"]


def test_a_pause_of_our_own_is_nobody_elses_silence() -> None:
    """After a late check every timer starts again."""
    clock = FakeClock()
    watch = vitals(clock)
    watch.hear("replica")
    clock.now += 20
    assert watch.check() == []
    assert pass_time(clock, watch, 2.5) == []
    assert pass_time(clock, watch, 1) == ["replica"]


def test_who_has_left_is_not_silent() -> None:
    """A closed connection has its own end."""
    clock = FakeClock()
    watch = vitals(clock)
    watch.hear("gone")
    watch.forget("gone")
    assert pass_time(clock, watch, 5) == []
    assert watch.silent_s("gone") is None
