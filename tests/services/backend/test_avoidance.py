"""Whom a process takes for dead, and for how long."""

from __future__ import annotations

from services.backend.avoidance import Avoidance
from tests.fakes.fake_clock import FakeClock


def test_a_suspect_is_told_for_a_while() -> None:
    """And forgotten then, because it may be back."""
    clock = FakeClock()
    avoidance = Avoidance(hold_s=10, clock=clock)
    avoidance.suspect("a")
    clock.now += 9
    assert avoidance.suspects() == ["a"]
    clock.now += 2
    assert avoidance.suspects() == []


def test_the_latest_suspicion_comes_first_and_lasts_longest() -> None:
    """A replica that is found silent again is suspected anew."""
    clock = FakeClock()
    avoidance = Avoidance(hold_s=10, clock=clock)
    for name in ("a", "b", "a"):
        avoidance.suspect(name)
        clock.now += 4
    assert avoidance.suspects() == ["a", "b"]
    clock.now += 3
    avoidance.suspect("c")
    assert avoidance.suspects() == ["c", "a"]
