"""Entries drawn one by one and put together are the step drawn at once."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.plan import Adjustments, SamplingColumns
from cluster.engine.sampling.sample import sample
from cluster.engine.sampling.split import entry, join

VOCAB = 70
ids = st.sets(st.integers(0, VOCAB - 1), max_size=4)


@st.composite
def adjustments(draw, size):
    """Of some rows; one that is guided by an empty mask has nothing left to draw."""
    weighed = [(row, token) for row in range(size) for token in sorted(draw(ids))]
    forbidden = [(row, token) for row in range(size) for token in sorted(draw(ids))]
    guided = sorted(draw(st.sets(st.integers(0, size - 1))))
    words = draw(st.lists(st.integers(0, 2**31 - 1) | st.just(0), min_size=len(guided), max_size=len(guided)))
    return Adjustments(
        weighed_rows=np.array([row for row, _ in weighed], np.int32),
        weighed_ids=np.array([token for _, token in weighed], np.int32),
        factors=np.linspace(0.5, 2, len(weighed)).astype(np.float32),
        offsets=np.linspace(-3, 3, len(weighed)).astype(np.float32),
        forbidden_rows=np.array([row for row, _ in forbidden], np.int32),
        forbidden_ids=np.array([token for _, token in forbidden], np.int32),
        guided_rows=np.array(guided, np.int32),
        allowed=np.array([[word, 0, 0] for word in words], np.int32).reshape(-1, 3),
    )


@st.composite
def steps(draw):
    size = draw(st.integers(1, 5))

    def column(values, dtype):
        return np.array(draw(st.lists(values, min_size=size, max_size=size)), dtype)

    logprobs = column(st.sampled_from([-1, 0, 3, 7]), np.int32)
    return SamplingColumns(
        rows=np.arange(size, dtype=np.int32),
        temperature=column(st.sampled_from([0.0, 0.7, 1.5]), np.float32),
        top_p=column(st.sampled_from([1.0, 0.6]), np.float32),
        top_k=column(st.sampled_from([0, 5]), np.int32),
        uniform=column(st.floats(0, 0.999), np.float64),
        min_p=column(st.sampled_from([0.0, 0.2]), np.float32) if draw(st.booleans()) else None,
        logprobs=logprobs if (logprobs >= 0).any() else None,
        adjustments=draw(adjustments(size)) if draw(st.booleans()) else None,
    )


@settings(max_examples=40)
@given(steps(), st.integers(0, 99))
def test_one_by_one_is_what_all_at_once_is(columns, seed):
    """Ids, broken rows, rows without a choice and log-probabilities stand where they stood."""
    logits = 3 * torch.randn(len(columns.rows), VOCAB, generator=torch.Generator().manual_seed(seed))
    logits[seed % len(logits), seed % VOCAB] = float("nan") if seed % 3 == 0 else 1.0
    at_once = sample(logits.clone(), columns)
    one_by_one = join([sample(logits[i : i + 1].clone(), entry(columns, i)) for i in range(len(logits))])
    assert one_by_one.finite.tolist() == at_once.finite.tolist()
    exhausted = [False] * len(logits) if at_once.exhausted is None else at_once.exhausted.tolist()
    assert exhausted == ([False] * len(logits) if one_by_one.exhausted is None else one_by_one.exhausted.tolist())
    means_something = at_once.finite & ~np.array(exhausted)
    assert one_by_one.token_ids[means_something].tolist() == at_once.token_ids[means_something].tolist()
    assert (one_by_one.logprobs is None) == (at_once.logprobs is None)
    if at_once.logprobs is not None:
        expected, actual = at_once.logprobs.by_row(), one_by_one.logprobs.by_row()
        assert list(actual) == list(expected)
        for row in np.flatnonzero(means_something).tolist():
            if row in expected:
                assert actual[row].top_ids == expected[row].top_ids
                np.testing.assert_allclose(actual[row].top, expected[row].top, atol=1e-5)
                np.testing.assert_allclose(actual[row].drawn, expected[row].drawn, atol=1e-5)


def test_what_only_neighbours_ask_for_is_none():
    """An entry alone is what a step of its own would have had."""
    nothing = np.empty(0, np.int32)
    weighed = np.array([1], np.int32)
    columns = SamplingColumns(
        rows=np.array([4, 6], np.int32),
        temperature=np.ones(2, np.float32),
        top_p=np.ones(2, np.float32),
        top_k=np.zeros(2, np.int32),
        uniform=np.zeros(2),
        min_p=np.array([0, 0.1], np.float32),
        logprobs=np.array([-1, 2], np.int32),
        adjustments=Adjustments(
            weighed, weighed, np.ones(1, np.float32), np.ones(1, np.float32), nothing, nothing, nothing,
            np.empty((0, 3), np.int32),
        ),
    )  # fmt: skip
    first, second = entry(columns, 0), entry(columns, 1)
    assert (first.min_p, first.logprobs, first.adjustments) == (None, None, None)
    assert second.rows.tolist() == [6]
    assert second.adjustments is not None
    assert second.adjustments.weighed_rows.tolist() == [0]
