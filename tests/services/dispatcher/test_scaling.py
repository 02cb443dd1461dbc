"""The number of dispatchers that a queue asks for, as a value and as Serve's controller gets it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher.facts import DispatcherFacts, figures
from services.dispatcher.scaling import Load, wanted
from services.dispatcher.serve_policy import DispatcherScaling, loads
from services.queue.base import QueueLag

SLOTS = 64.0


def of(jobs: float, number: int, *, allowed: float = SLOTS) -> list[Load]:
    return [Load(jobs, SLOTS, allowed)] * number


@pytest.mark.parametrize(
    ("jobs", "current", "number"),
    [(0, 1, 1), (64, 1, 1), (65, 1, 2), (100_000, 1, 2), (100_000, 3, 6), (100_000, 6, 8), (33, 2, 2), (0, 4, 3)],
)
def test_there_are_slots_for_all_jobs(jobs, current, number):
    """At most twice as many at once, one less at a time, and none for less than half of what is left."""
    assert wanted(of(jobs, current), current=current, least=1, most=8) == number


def test_where_replicas_refuse_no_more_come():
    """Another one would find no room either."""
    assert wanted(of(1_000, 2, allowed=20), current=2, least=1, most=8) == 2


def test_nothing_reported_changes_nothing():
    """New bounds hold at once."""
    assert [wanted([], current=3, least=1, most=most) for most in (4, 2)] == [3, 2]


@given(jobs=st.floats(0, 1e6), current=st.integers(0, 20), least=st.integers(1, 8), more=st.integers(0, 8))
def test_the_number_is_within_its_bounds(jobs, current, least, more):
    """And falls by at most one."""
    number = wanted(of(jobs, max(current, 1)), current=current, least=least, most=least + more)
    assert least <= number <= least + more
    assert number >= min(max(current, least), least + more) - 1


@given(jobs=st.floats(0, 2_000), current=st.integers(1, 16))
def test_a_constant_queue_finds_its_number_and_stays(jobs, current):
    """From anywhere it moves in one direction until it rests."""
    numbers = [current]
    for _ in range(40):
        numbers.append(wanted(of(jobs, numbers[-1]), current=numbers[-1], least=1, most=16))
    assert numbers[-1] == numbers[-2]
    assert numbers in (sorted(numbers), sorted(numbers, reverse=True))


def series(*values: float) -> list[SimpleNamespace]:
    return [SimpleNamespace(value=value) for value in values]


def test_the_policy_takes_what_was_said_last():
    """A queue that was long a moment ago asks for nobody."""
    metrics = {"jobs": {"a": series(1_000, 10)}, "slots": {"a": series(64, 64)}, "allowed": {"a": series(64, 64)}}
    assert loads(metrics) == [Load(10, 64, 64)]
    context = SimpleNamespace(
        raw_metrics=metrics, target_num_replicas=1, capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=4
    )
    assert DispatcherScaling()(context) == (1, {})
    metrics["jobs"]["a"] += series(70)
    assert DispatcherScaling()(context) == (2, {})


@pytest.mark.parametrize("metrics", [{}, {"jobs": {"a": series(9)}}, {"ongoing_requests": {"a": series(9)}}])
def test_what_is_not_whole_does_not_count(metrics):
    """Serve asks before anything was recorded, and keeps figures of its own among ours."""
    assert loads(metrics) == []


def test_a_dispatcher_records_its_queue():
    """Once it knows it."""
    facts = DispatcherFacts(used=3, slots=64, allowed=10, adopted=0, settled={}, lag=None)
    assert figures(facts) == {}
    lag = QueueLag(waiting=7, tenants=1, working=3, delayed=5, dead=1, oldest_s=2.0)
    known = DispatcherFacts(used=3, slots=64, allowed=10, adopted=0, settled={}, lag=lag)
    assert figures(known) == {"jobs": 10, "slots": 64, "allowed": 10}


def test_serves_controller_loads_nothing_for_the_policy():
    """All that it imports is its own."""
    code = """
        import sys, dataclasses, math, typing
        before = set(sys.modules)
        import services.dispatcher.serve_policy
        print(*sorted(set(sys.modules) - before))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    names = "services services.dispatcher services.dispatcher.scaling services.dispatcher.serve_policy"
    assert done.stdout.split() == names.split()
