"""A refused caller hears how long the queue really takes."""

import pytest

from cluster.engine.pace import QueuePace


def test_queue_time_follows_the_measured_rate() -> None:
    """Two admissions a second and twenty waiting make ten seconds."""
    pace = QueuePace()
    for i in range(40):
        pace.observe(i * 0.5, admitted=1 if i else 0, waiting=20)
    assert pace.retry_after_s(19.5, waiting=20) == pytest.approx(10.0)


def test_idle_time_does_not_count() -> None:
    """An hour without a queue leaves the estimate as it was."""
    pace = QueuePace()
    for start in (0.0, 3600.0):
        for i in range(11):
            pace.observe(start + i, admitted=1 if i else 0, waiting=0 if i == 10 else 9)
    assert pace.retry_after_s(3610.0, waiting=9) == pytest.approx(9.0)


def test_standstill_raises_the_estimate() -> None:
    """While nobody is admitted the waiting time grows, up to a minute."""
    pace = QueuePace()
    pace.observe(0.0, admitted=0, waiting=5)
    pace.observe(1.0, admitted=1, waiting=5)
    assert pace.retry_after_s(1.0, waiting=5) == pytest.approx(5.0)
    assert pace.retry_after_s(3.0, waiting=5) == pytest.approx(15.0)
    assert pace.retry_after_s(500.0, waiting=5) == 60.0


def test_unmeasured_queue_says_how_long_it_has_stood() -> None:
    """Before the first admission the time already waited is the estimate, at least a second."""
    pace = QueuePace()
    assert pace.retry_after_s(0.0, waiting=5) == 1.0
    pace.observe(0.0, admitted=0, waiting=5)
    assert pace.retry_after_s(7.0, waiting=5) == 7.0
