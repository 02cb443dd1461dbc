"""When turns leave a replica that is being stopped."""

from __future__ import annotations

from services.backend.draining import DrainWatch
from tests.fakes.fake_clock import FakeClock


def test_turns_have_the_grace_to_end_by_themselves() -> None:
    """Then their replica is named, again and again until they are gone."""
    clock = FakeClock()
    watch = DrainWatch(30, clock)
    assert watch.overdue(running={"a", "b"}, serving={"a", "b"}) == []
    assert watch.overdue(running={"b"}, serving={"a", "b"}) == []
    clock.now += 29
    assert watch.overdue(running={"b"}, serving={"a", "b"}) == []
    clock.now += 1
    assert watch.overdue(running={"b"}, serving={"a", "b"}) == ["a"]
    assert watch.overdue(running={"b"}, serving={"b"}) == []


def test_a_replica_that_comes_back_to_the_list_starts_anew() -> None:
    """A broadcast may flicker."""
    clock = FakeClock()
    watch = DrainWatch(30, clock)
    watch.overdue(running={"b"}, serving={"a"})
    clock.now += 20
    watch.overdue(running={"a", "b"}, serving={"a"})
    clock.now += 20
    assert watch.overdue(running={"b"}, serving={"a"}) == []


def test_nobody_moves_while_there_is_no_elsewhere() -> None:
    """The whole cluster ends, or nothing was broadcast yet."""
    clock = FakeClock()
    watch = DrainWatch(1, clock)
    watch.overdue(running=set(), serving={"a"})
    clock.now += 60
    assert watch.overdue(running=set(), serving={"a"}) == []
