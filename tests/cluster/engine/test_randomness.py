"""Draws are pure, uniform, and do not repeat between neighbouring seeds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.randomness import uniform

RECORDED = [0.6524484863740322, 0.7012121095215252, 0.12759409342239636, 0.7238582745899125, 0.7238582745899125]


@given(seed=st.integers(), position=st.integers(min_value=0, max_value=2**31))
def test_a_draw_is_a_pure_function_into_the_half_open_unit_interval(seed, position):
    """The same seed and position always give the same number in [0, 1)."""
    draw = uniform(seed, position)
    assert 0.0 <= draw < 1.0
    assert draw == uniform(seed, position)


def test_recorded_draws_never_change():
    """Answers of earlier versions stay repeatable."""
    assert [uniform(0, 0), uniform(0, 1), uniform(1234, 5), uniform(-1, 7), uniform(2**64 - 1, 7)] == RECORDED


def test_draws_fill_the_interval_evenly():
    """The first draw over many seeds, and many draws of one seed, pass a chi-square test."""
    for draws in ([uniform(seed, 0) for seed in range(20_000)], [uniform(7, p) for p in range(20_000)]):
        counts, _ = np.histogram(draws, bins=100, range=(0, 1))
        assert ((counts - 200) ** 2 / 200).sum() < 160  # 99 degrees of freedom; 160 is beyond p = 1e-4


def test_neighbouring_seeds_share_no_draws():
    """Seed s at position p + 1 is not seed s + 1 at position p."""
    draws = [uniform(seed, position) for seed in range(100) for position in range(100)]
    assert len(set(draws)) == len(draws)
