"""What turns add up to."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import OverloadedError
from services.turns.metrics import Account, Histogram, Stopwatch, TurnMetrics

BOUNDS = (0.1, 1.0, 10.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5))))
def test_every_observation_is_in_the_first_bucket_whose_bound_it_does_not_pass(values):
    """Bounds are inclusive; what passes all is in the last bucket."""
    histogram = Histogram(BOUNDS)
    for value, weight in values:
        histogram.observe(value, weight)
    edges = [-1.0, *BOUNDS, float("inf")]
    expected = [sum(w for v, w in values if low < v <= high) for low, high in pairwise(edges)]
    assert histogram.counts == expected
    assert histogram.total == pytest.approx(sum(v * w for v, w in values))


def test_the_first_id_counts_as_time_to_first_token_and_each_further_one_as_latency():
    """Ids of one frame share the time since the frame before."""
    now, metrics = [0.0], TurnMetrics()
    stopwatch = Stopwatch(metrics, clock=lambda: now[0])
    for moment, ids in ((2.0, 1), (2.4, 4), (2.5, 1)):
        now[0] = moment
        stopwatch.lap(ids)
    assert (sum(metrics.ttft_s.counts), metrics.ttft_s.total) == (1, 2.0)
    assert sum(metrics.latency_s.counts) == 5
    assert metrics.latency_s.total == pytest.approx(0.5)
    assert metrics.output_tokens == 6


def test_what_was_no_turn_is_not_booked():
    """Neither as an outcome nor as an error."""
    metrics = TurnMetrics()
    account = Account(metrics)
    account.is_void = True
    with pytest.raises(RuntimeError), account:
        raise RuntimeError
    assert (metrics.turns, metrics.errors, metrics.active) == ({}, {}, 0)


@pytest.mark.parametrize(
    ("error", "is_started", "outcome", "errors"),
    [
        (OverloadedError("full", retry_after_s=1), False, "refused", {"overloaded": 1}),
        (OverloadedError("full", retry_after_s=1), True, "failed", {"overloaded": 1}),
        (ZeroDivisionError(), True, "failed", {"internal_error": 1}),
        (GeneratorExit(), True, "cancelled", {}),
    ],
)
def test_a_turn_is_booked_by_how_it_was_left(error, is_started, outcome, errors):
    """Errors by code, closed generators as cancelled; the turn is no longer active."""
    metrics = TurnMetrics()
    account = Account(metrics)
    account.is_started = is_started
    with pytest.raises(type(error)), account:
        raise error
    assert (metrics.turns, metrics.errors, metrics.active) == ({outcome: 1}, errors, 0)
