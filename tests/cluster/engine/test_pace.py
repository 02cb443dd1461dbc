"""What the queue's predictions are made of: rates of leaving and of computing prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.pace import QueuePace


def leave_every_second(pace: QueuePace, *, running: int, pages: int, seconds: int, start: float = 0.0) -> None:
    """A batch of constant size that one sequence leaves each second."""
    pace.observe(start, running=running, pages=pages)
    for i in range(seconds):
        pace.leave()
        pace.observe(start + i + 1, running=running, pages=pages)


def test_nothing_is_known_at_first() -> None:
    """Without a measurement there are no rates, and nothing is expected of the cache."""
    pace = QueuePace()
    assert (pace.leave_rate(max_seqs=4, max_pages=9), pace.prefill_rate, pace.computed_share) == (None, None, 1.0)


def test_time_without_a_finish_is_no_rate() -> None:
    """A batch that nobody has left yet says nothing about when someone will."""
    pace = QueuePace()
    pace.observe(0.0, running=4, pages=8)
    pace.observe(9.0, running=4, pages=8)
    assert pace.leave_rate(max_seqs=4, max_pages=9) is None


def test_full_batch_is_left_in_proportion() -> None:
    """Where one of two leaves each second, five of ten would."""
    pace = QueuePace()
    leave_every_second(pace, running=2, pages=2, seconds=200)
    assert pace.leave_rate(max_seqs=10, max_pages=1000) == pytest.approx(5.0, rel=0.05)


def test_pages_bound_the_batch() -> None:
    """Sequences of eight pages fit a pool of sixteen twice, however many places there are."""
    pace = QueuePace()
    leave_every_second(pace, running=2, pages=16, seconds=200)
    assert pace.leave_rate(max_seqs=10, max_pages=16) == pytest.approx(1.0, rel=0.05)


def test_idle_time_does_not_count() -> None:
    """A day without work leaves the rates as they were."""
    pace = QueuePace()
    leave_every_second(pace, running=2, pages=2, seconds=10)
    pace.observe(10.0, running=0, pages=0)
    before = pace.leave_rate(max_seqs=2, max_pages=9)
    pace.observe(86400.0, running=1, pages=1)
    assert pace.leave_rate(max_seqs=2, max_pages=9) == before


def test_standstill_lowers_the_rate() -> None:
    """While nobody leaves, the rate falls."""
    pace = QueuePace()
    leave_every_second(pace, running=1, pages=1, seconds=10)
    pace.observe(30.0, running=1, pages=1)
    rate = pace.leave_rate(max_seqs=1, max_pages=9)
    assert rate is not None
    assert rate < 0.4


def test_old_measurements_fade() -> None:
    """Two minutes at a new speed outweigh an hour at the old one."""
    pace = QueuePace()
    leave_every_second(pace, running=10, pages=10, seconds=3600)
    leave_every_second(pace, running=1, pages=1, seconds=300, start=3600.0)
    assert pace.leave_rate(max_seqs=1, max_pages=9) == pytest.approx(1.0, rel=0.05)
    for _ in range(100):
        pace.prefill(tokens=100, seconds=1.0)
    for _ in range(150):
        pace.prefill(tokens=500, seconds=1.0)
    assert pace.prefill_rate == pytest.approx(500.0, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(1e-4, 10.0)), min_size=1, max_size=30))
def test_prefill_rate_lies_between_its_measurements(steps: list[tuple[int, float]]) -> None:
    """A mean is neither below the slowest step nor above the fastest."""
    pace = QueuePace()
    for tokens, seconds in steps:
        pace.prefill(tokens=tokens, seconds=seconds)
    rates = [tokens / seconds for tokens, seconds in steps]
    assert pace.prefill_rate is not None
    assert min(rates) * 0.999 <= pace.prefill_rate <= max(rates) * 1.001


def test_share_follows_the_admitted() -> None:
    """Where nine tenths are found in the cache, one tenth is to be computed."""
    pace = QueuePace()
    for _ in range(50):
        pace.admit(tokens=100, found=90)
    assert pace.computed_share == pytest.approx(0.1)
