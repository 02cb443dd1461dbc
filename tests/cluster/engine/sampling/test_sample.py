"""A step draws each row by what that row asks for: its distribution, its ids, its failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from cluster.engine.plan import SamplingColumns, StepResult
from cluster.engine.randomness import uniform
from cluster.engine.sampling.draw import Filters, keep
from cluster.engine.sampling.sample import sample
from cluster.engine.sampling.split import entry, join
from tests.fakes.drawing import Asked, columns_of, plain
from tests.fakes.scripted_guide import ScriptedGuide

VOCABULARY = 1500  # beyond the candidates a row looks at first

ids = st.integers(0, 40)
samplings = st.builds(
    plain,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 1, 40, 900]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    logit_bias=st.sampled_from([{}, {3: 10.0, 800: -100.0}]),
    bad_words=st.sampled_from([(), ((5,), (6, 7))]),
    min_new_tokens=st.sampled_from([0, 3]),
    stop_ids=st.just((2, 9)),
    logprobs=st.sampled_from([None, 0, 2, 7]),
    seed=st.integers(0, 99),
)
guides = st.one_of(st.none(), st.just(set(range(0, 1500, 3))), st.just(set()))


@st.composite
def asked_rows(draw: st.DrawFn) -> Asked:
    allowed = draw(guides)
    guide = None if allowed is None else ScriptedGuide([set(range(VOCABULARY))] * 4 + [allowed] * 9)
    prompt, output = draw(st.lists(ids, min_size=1, max_size=6)), draw(st.lists(ids, max_size=4))
    return Asked(draw(samplings), prompt, output, guide)


def logits_of(rows: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


def told(result: StepResult, row: int) -> tuple[object, ...]:
    """All that a result says of one row; the id of a row without any means nothing."""
    is_exhausted = result.exhausted is not None and bool(result.exhausted[row])
    logprobs = (result.logprobs.by_row() if result.logprobs else {}).get(row)
    if is_exhausted:
        return (bool(result.finite[row]), is_exhausted)
    numbers = None if logprobs is None else (logprobs.drawn, logprobs.top_ids, logprobs.top)
    return (int(result.token_ids[row]), bool(result.finite[row]), is_exhausted, numbers)


@settings(max_examples=40)
@given(rows=st.lists(asked_rows(), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_a_row_is_drawn_the_same_alone_and_among_others(rows, seed):
    """Nothing that batch-mates ask for reaches a row, nor is a part of its own lost when it stands alone."""
    logits, columns = logits_of(len(rows), seed), columns_of(rows, VOCABULARY)
    together = sample(logits.clone(), columns)
    alone = [sample(logits[row : row + 1].clone(), entry(columns, row)) for row in range(len(rows))]
    joined = join(alone)
    for row in range(len(rows)):
        assert told(together, row) == told(joined, row) == told(alone[row], 0) or near(together, joined, row)


def near(left: StepResult, right: StepResult, row: int) -> bool:
    """Whether two results differ only in the last bits of their logprobs."""
    if left.logprobs is None or right.logprobs is None:
        return False
    one, other = left.logprobs.by_row()[row], right.logprobs.by_row()[row]
    assert [one.drawn, *one.top] == pytest.approx([other.drawn, *other.top], abs=1e-5)
    return one.top_ids == other.top_ids and left.token_ids[row] == right.token_ids[row]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.5, 0.8, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([1.0, 0.95, 0.8, 0.3]),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.7]),
)
def test_filters_keep_what_those_of_transformers_keep(seed, temperature, top_k, top_p, min_p):
    """Temperature, top-k, top-p, min-p, in this order; kept sets exactly, probabilities closely."""
    logits = logits_of(1, seed)
    expected = logits
    for is_on, warper in (
        (True, TemperatureLogitsWarper(temperature)),
        (top_k > 0, TopKLogitsWarper(max(top_k, 1))),
        (top_p < 1, TopPLogitsWarper(top_p)),
        (min_p > 0, MinPLogitsWarper(min_p)),
    ):
        expected = warper(torch.zeros(1, 1, dtype=torch.long), expected) if is_on else expected
    f32 = np.float32
    filters = Filters(
        np.array([temperature], f32), np.array([top_p], f32), np.array([top_k], np.int32), np.array([min_p], f32)
    )
    kept = keep(logits, filters, VOCABULARY)
    found = torch.zeros(VOCABULARY, dtype=torch.float64)
    found[kept.ids[0]] = kept.probabilities[0] / kept.probabilities.sum()
    assert torch.equal(found > 0, expected[0] > -torch.inf)
    torch.testing.assert_close(found, expected[0].double().softmax(-1), atol=1e-6, rtol=0)


def test_draws_are_distributed_as_the_adjusted_and_filtered_scores():
    """Chi-square over 20,000 seeded draws; 99.9 percent of right samplers pass, and this one is always the same."""
    draws, size = 20_000, 40
    sampling = plain(
        temperature=0.9, top_p=0.95, min_p=0.02, repetition_penalty=1.4, frequency_penalty=0.5, logit_bias={4: 2.0}
    )
    row = Asked(sampling, [1, 2, 3], [4, 4, 5])
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(3)) * 2
    one = columns_of([row], size)
    probabilities = expected_probabilities(logits[0], row)
    columns = repeated(one, draws)
    counts = np.bincount(sample(logits.repeat(draws, 1), columns).token_ids, minlength=size)
    kept = probabilities > 0
    assert not counts[~kept].any()
    expected = probabilities[kept] * draws
    statistic = float(((counts[kept] - expected) ** 2 / expected).sum())
    assert statistic < chi_square_limit(int(kept.sum()) - 1)


def expected_probabilities(logits: torch.Tensor, row: Asked) -> np.ndarray:
    """By the definition, in plain Python floats."""
    sampling, scores = row.sampling, logits.double().tolist()
    for token_id in {*row.prompt, *row.output}:
        score = scores[token_id]
        scores[token_id] = score * sampling.repetition_penalty if score < 0 else score / sampling.repetition_penalty
    for token_id in row.output:
        scores[token_id] -= sampling.frequency_penalty
    for token_id, bias in sampling.logit_bias.items():
        scores[token_id] += bias
    weights = np.exp(np.array(scores) / sampling.temperature)
    order = np.argsort(-weights)
    before = np.cumsum(weights[order]) - weights[order]
    kept = order[before < sampling.top_p * weights.sum()]
    kept = kept[weights[kept] >= sampling.min_p * weights[order[0]]]
    result = np.zeros(len(scores))
    result[kept] = weights[kept] / weights[kept].sum()
    return result


def repeated(columns: SamplingColumns, draws: int) -> SamplingColumns:
    """The columns of one row as those of many rows with draws of their own."""
    return columns_of_many(columns, np.array([uniform(11, index) for index in range(draws)]))


def columns_of_many(columns: SamplingColumns, uniforms: np.ndarray) -> SamplingColumns:
    part, count = columns.adjustments, len(uniforms)
    assert part is not None
    assert columns.min_p is not None
    ids_of_row = len(part.weighed_ids)
    return SamplingColumns(
        rows=np.arange(count, dtype=np.int32),
        temperature=columns.temperature.repeat(count),
        top_p=columns.top_p.repeat(count),
        top_k=columns.top_k.repeat(count),
        uniform=uniforms,
        min_p=columns.min_p.repeat(count),
        adjustments=type(part)(
            weighed_rows=np.arange(count, dtype=np.int32).repeat(ids_of_row),
            weighed_ids=np.tile(part.weighed_ids, count),
            factors=np.tile(part.factors, count),
            offsets=np.tile(part.offsets, count),
            forbidden_rows=part.forbidden_rows,
            forbidden_ids=part.forbidden_ids,
            guided_rows=part.guided_rows,
            allowed=part.allowed,
        ),
    )


def chi_square_limit(freedom: int) -> float:
    """The 99.9th percentile (Wilson and Hilferty, 1931)."""
    ninth = 2 / (9 * freedom)
    return freedom * (1 - ninth + 3.0902 * math.sqrt(ninth)) ** 3


def test_masks_are_no_broken_numbers():
    """A row whose ids are mostly masked is finite; one with NaN or infinity is not, masks or none."""
    rows = [
        Asked(plain(), guide=ScriptedGuide([{8}])),
        Asked(plain(bad_words=((3,),))),
        Asked(plain(), guide=ScriptedGuide([{8}])),
        Asked(plain(bad_words=((3,),))),
    ]
    logits = logits_of(4)
    logits[2, 1] = torch.nan
    logits[3, 3] = -torch.inf  # hidden by the ban, but broken all the same
    result = sample(logits, columns_of(rows, VOCABULARY))
    assert result.finite.tolist() == [True, True, False, False]
    assert result.token_ids[0] == 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("fields", [{}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.5}], ids=str)
def test_a_row_with_nothing_to_draw_is_marked_and_hurts_no_other(temperature, fields):
    """Whatever its filters, it neither raises nor touches its neighbours."""
    free = Asked(plain(temperature=temperature, **fields))
    held = Asked(plain(temperature=temperature, **fields), guide=ScriptedGuide([set()]))
    logits = logits_of(3)
    expected = sample(logits.clone(), columns_of([free] * 3, VOCABULARY)).token_ids
    result = sample(logits.clone(), columns_of([free, held, free], VOCABULARY))
    assert result.exhausted is not None
    assert (result.exhausted.tolist(), result.finite.tolist()) == ([False, True, False], [True] * 3)
    assert result.token_ids[[0, 2]].tolist() == expected[[0, 2]].tolist()
    assert 0 <= result.token_ids[1] < VOCABULARY


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {}, {"top_k": 50}, {"top_p": 0.9}, {"min_p": 0.9}], ids=str)
@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-53])
def test_only_allowed_ids_are_drawn(fields, draw):
    """Also where fewer ids are left than a filter would keep, and where they are the least probable ones."""
    logits = logits_of(1)
    least = set(logits[0].argsort()[:3].tolist())
    one = columns_of([Asked(plain(**fields), guide=ScriptedGuide([least]))], VOCABULARY)
    one.uniform[:] = draw
    assert sample(logits, one).token_ids[0] in least


def test_without_stop_ids_a_structure_that_must_end_may_end():
    """A minimum length holds stop ids back only while something else may come."""
    sampling = plain(min_new_tokens=3, stop_ids=(2,), temperature=0.0)
    going_on = Asked(sampling, guide=ScriptedGuide([{2, 8}], stop_ids=(2,)))
    at_its_end = Asked(sampling, guide=ScriptedGuide([], stop_ids=(2,)))
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 2] = 9.0
    assert sample(logits, columns_of([going_on, at_its_end], VOCABULARY)).token_ids.tolist() == [8, 2]
