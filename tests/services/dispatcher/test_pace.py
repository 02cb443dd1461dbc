"""How many jobs are taken while some are refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.dispatcher.pace import Pace
from tests.fakes.fake_clock import FakeClock

MOST = 64


def test_without_refusals_all_slots_are_used():
    """The pace is no limit then."""
    pace = Pace(MOST, 2.0, FakeClock())
    assert [pace.room(0), pace.room(60), pace.room(64), pace.room(70)] == [64, 4, 0, 0]


def test_a_refusal_halves_the_jobs_in_hand_after_a_pause():
    """As long as the replica asked for, or as long as is allowed."""
    clock = FakeClock()
    pace = Pace(MOST, 2.0, clock)
    pace.refused(40, retry_after_s=30.0)
    assert pace.room(0) == 0
    clock.now += 2.0
    assert pace.room(0) == 20


def test_jobs_refused_together_count_once():
    """What was taken before the first refusal says nothing new; the pause goes on from the last."""
    clock = FakeClock()
    pace = Pace(MOST, 2.0, clock)
    for used in range(40, 0, -1):
        pace.refused(used, retry_after_s=1.0)
        clock.now += 0.01
    clock.now += 1.0
    assert pace.room(0) == 20


def test_each_job_done_allows_one_more():
    """So the number doubles with each round, up to all slots."""
    clock = FakeClock()
    pace = Pace(MOST, 2.0, clock)
    pace.refused(8, retry_after_s=0.0)
    for _ in range(4):
        pace.done()
    assert pace.room(0) == 8
    for _ in range(100):
        pace.done()
    assert pace.room(0) == MOST


@given(st.lists(st.tuples(st.booleans(), st.integers(0, MOST), st.floats(0, 5))))
def test_one_job_is_always_allowed_in_the_end(events):
    """However often it was refused, somebody has to ask again; and never more than there are slots."""
    clock = FakeClock()
    pace = Pace(MOST, 2.0, clock)
    for is_done, used, pause_s in events:
        if is_done:
            pace.done()
        else:
            pace.refused(used, pause_s)
        clock.now += pause_s
        assert pace.room(0) <= MOST
    clock.now += 2.0
    assert pace.room(0) >= 1
