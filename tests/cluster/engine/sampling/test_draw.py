"""The sampler is the inverse of the kept distribution, row by row, whatever shares the batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.plan import SamplingColumns
from cluster.engine.sampling.draw import Filters, keep
from cluster.engine.sampling.sample import sample

VOCABULARY = 4000  # beyond the candidates a row looks at first


def draw(logits, *, temperature=1.0, top_p=1.0, top_k=0, uniform=0.5, min_p=None):
    """Sample rows with the same or with per-row parameters; ids as a list."""
    rows = len(logits)
    result = sample(
        logits,
        SamplingColumns(
            rows=np.arange(rows, dtype=np.int32),
            temperature=np.broadcast_to(np.float32(temperature), rows),
            top_p=np.broadcast_to(np.float32(top_p), rows),
            top_k=np.broadcast_to(np.int32(top_k), rows),
            uniform=np.broadcast_to(np.float64(uniform), rows),
            min_p=None if min_p is None else np.broadcast_to(np.float32(min_p), rows),
        ),
    )
    return result.token_ids.tolist(), result.finite.tolist()


def random_logits(rows, *, seed=0, scale=2.0):
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


def by_hand(logits, uniform, *, temperature, top_p, top_k, min_p):
    """The definition, in plain Python: filter, renormalise, first id whose running sum passes the draw."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if top_k:
        order = [token for token in order if logits[token] >= logits[order[min(top_k, len(order)) - 1]]]
    weights = {token: np.exp((logits[token] - logits[order[0]]) / temperature) for token in order}
    total, before, kept = sum(weights.values()), 0.0, {}
    for token in order:
        if kept and (before >= top_p * total or weights[token] < min_p):
            break
        kept[token] = weights[token]
        before += weights[token]
    goal, passed = uniform * sum(kept.values()), 0.0
    for token in sorted(kept):
        passed += kept[token]
        if passed > goal:
            return token
    return max(kept)


@settings(max_examples=150)
@given(
    values=st.lists(st.integers(-12, 12).map(lambda tick: tick / 4), min_size=2, max_size=40),
    filters=st.fixed_dictionaries(
        {
            "temperature": st.floats(0.125, 4.0, width=32),
            "top_p": st.floats(0.0625, 1.0, width=32),
            "top_k": st.integers(0, 45),
            "min_p": st.sampled_from([0.0, 0.03, 0.3, 1.0]),
        }
    ),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_matches_the_definition(values, filters, uniform):
    """Many equal logits, so that ties at every boundary are met."""
    expected = by_hand(values, uniform, **filters)
    nudges = itertools.product((-1e-6, 0.0, 1e-6), repeat=2)
    near = {by_hand(values, uniform + e, **{**filters, "top_p": filters["top_p"] + d}) for d, e in nudges}
    [token], _ = draw(torch.tensor([values]), **filters, uniform=uniform)
    assert token == expected or token in near  # a draw on a boundary may fall either way in the last bit


def test_greedy_takes_the_best_and_the_first_of_equals():
    """Temperature 0 ignores the other parameters."""
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 1.0, 1.0, 1.0]])
    assert draw(logits, temperature=0.0, top_p=0.1, top_k=3, uniform=0.99)[0] == [1, 0]


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 50, "top_p": 0.8, "temperature": 0.8},
        {"top_k": 500, "top_p": 0.99},
        {"top_p": 0.9},
        {"min_p": 0.02},
        {"top_p": 0.999, "temperature": 8.0},  # flatter than the candidates reach
        {},
    ],
    ids=str,
)
def test_a_row_draws_the_same_alone_and_in_any_slot_of_a_mixed_batch(parameters):
    """Batch-mates with other parameters neither change the draw nor the shortcut's answer."""
    [row], mates = random_logits(1, seed=1), random_logits(6, seed=2)
    [expected], _ = draw(row[None], **parameters, uniform=0.37)
    for slot in (0, 3, 6):
        logits = torch.cat((mates[:slot], row[None], mates[slot:]))
        columns = {
            "temperature": np.array([0.0, 0.7, 1.0, 8.0, 0.0, 1.3], np.float32),
            "top_p": np.array([1.0, 0.9, 1.0, 0.999, 0.5, 1.0], np.float32),
            "top_k": np.array([0, 0, 0, 0, 7, 900], np.int32),
            "uniform": np.full(6, 0.9),
            "min_p": np.array([0.5, 0.0, 0.0, 0.0, 0.1, 0.9], np.float32),
        }
        defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "uniform": 0.37, "min_p": 0.0}
        mine = {**defaults, **parameters}
        ids, _ = draw(logits, **{name: np.insert(column, slot, mine[name]) for name, column in columns.items()})
        assert ids[slot] == expected


@pytest.mark.parametrize("top_k", [0, 5, 80])
@pytest.mark.parametrize("uniform", [0.0, 0.123456, 0.5, 0.987, 1 - 2**-53])
def test_the_shortcut_agrees_with_the_whole_vocabulary(top_k, uniform):
    """Candidates are an optimisation: kept ids and weights are those of a full sort."""
    logits = random_logits(4, seed=3, scale=4.0)
    filters = Filters(np.full(4, 0.9, np.float32), np.full(4, 0.9, np.float32), np.full(4, top_k, np.int32))
    few, whole = keep(logits, filters, candidates=1024), keep(logits, filters, candidates=VOCABULARY)
    assert few.is_complete.all()
    for row in range(4):
        kept = few.ids[row][few.probabilities[row] > 0].tolist()
        assert kept == whole.ids[row][whole.probabilities[row] > 0].tolist()
    ids, _ = draw(logits, temperature=0.9, top_p=0.9, top_k=top_k, uniform=uniform)
    assert all(token in few.ids[row][few.probabilities[row] > 0] for row, token in enumerate(ids))


def test_a_flat_row_is_drawn_from_beyond_the_candidates():
    """With all logits equal, top-p 0.9 keeps the first nine tenths of the vocabulary, and a high draw reaches them."""
    logits = torch.zeros(1, VOCABULARY)
    filters = Filters(np.ones(1, np.float32), np.full(1, 0.9, np.float32), np.zeros(1, np.int32))
    assert not keep(logits, filters, candidates=1024).is_complete
    [token], _ = draw(logits, top_p=0.9, uniform=0.5)
    assert abs(token - 0.45 * VOCABULARY) <= 1


def test_ties_with_the_kth_best_beyond_the_candidates_are_kept():
    """Two hundred equal best logits, top-k 10: all of them may be drawn."""
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 1000:1200] = 5.0
    drawn, _ = draw(logits.repeat(400, 1), top_k=10, uniform=np.linspace(0, 1, 400, endpoint=False))
    assert set(drawn) == set(range(1000, 1200))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("parameters", [{"temperature": 0.0}, {"top_k": 50}, {"top_p": 0.8}, {}], ids=str)
def test_a_broken_row_is_marked_and_hurts_no_other(value, parameters):
    """NaN or infinity anywhere in a row spoils that row alone."""
    logits = random_logits(3, seed=4)
    expected, _ = draw(logits, **parameters)
    broken = logits.clone()
    broken[1, 1234] = value
    ids, finite = draw(broken, **parameters)
    assert finite == [True, False, True]
    assert [ids[0], ids[2]] == [expected[0], expected[2]]
    assert 0 <= ids[1] < VOCABULARY


@pytest.mark.parametrize("temperature", [1e-45, 1e-12, 1e-6])
@pytest.mark.parametrize("parameters", [{"top_k": 50}, {"top_p": 0.8}, {}], ids=str)
def test_a_vanishing_temperature_is_greedy(temperature, parameters):
    """Dividing by next to nothing must not overflow to NaN."""
    logits = random_logits(2, seed=5)
    ids, finite = draw(logits, temperature=temperature, **parameters, uniform=0.999)
    assert ids == logits.argmax(-1).tolist()
    assert finite == [True, True]


def test_a_draw_of_almost_one_never_leaves_the_kept_set():
    """The running sum's last rounding must not select a dropped id at the end of the vocabulary."""
    logits = torch.full((1, VOCABULARY), -20.0)
    logits[0, 10:13] = torch.tensor([1.0, 0.5, 0.7])
    for parameters in ({"top_k": 3}, {"top_p": 0.9}):
        assert draw(logits, **parameters, uniform=1 - 2**-53)[0] == [12]


def test_half_precision_logits_are_drawn_like_their_float32_values():
    """bfloat16 logits are full of ties; they are compared as what they are."""
    logits = random_logits(3, seed=6).bfloat16()
    assert draw(logits, top_k=50, top_p=0.8) == draw(logits.float(), top_k=50, top_p=0.8)
