"""Logprobs are those of the model's own distribution, whatever was done to the scores before the draw."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.sampling.logprobs import best_ids
from cluster.engine.sampling.sample import sample
from tests.fakes.drawing import Asked, columns_of, plain
from tests.fakes.scripted_guide import ScriptedGuide

VOCABULARY = 300


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize(
    "asked",
    [
        Asked(plain(logprobs=5)),
        Asked(plain(logprobs=5, temperature=0.2, top_k=3, min_p=0.1)),
        Asked(plain(logprobs=5, repetition_penalty=2.0, logit_bias={1: 90.0}), [1, 2, 3]),
        Asked(plain(logprobs=5), guide=ScriptedGuide([{17}])),
    ],
    ids=["free", "filtered", "weighed", "guided"],
)
def test_logprobs_are_log_softmax_of_the_raw_logits(asked):
    """Of the drawn id and of the best five."""
    logits = logits_of(1)
    expected = logits.double().log_softmax(-1)[0]
    result = sample(logits.clone(), columns_of([asked], VOCABULARY))
    assert result.logprobs is not None
    told = result.logprobs.by_row()[0]
    assert told.top_ids == expected.topk(5).indices.tolist()
    assert told.top == pytest.approx(expected.topk(5).values.tolist(), abs=1e-5)
    assert told.drawn == pytest.approx(expected[result.token_ids[0]].item(), abs=1e-5)


def test_each_row_is_told_what_it_asked_for():
    """None, the drawn id's alone, or that and a number of best ids."""
    asked = [Asked(plain(logprobs=number)) for number in (None, 0, 3, None, 20)]
    result = sample(logits_of(5), columns_of(asked, VOCABULARY))
    assert result.logprobs is not None
    told = result.logprobs.by_row()
    assert {row: len(entry.top) for row, entry in told.items()} == {1: 0, 2: 3, 4: 20}
    assert {row: len(entry.top_ids) for row, entry in told.items()} == {1: 0, 2: 3, 4: 20}


def test_nobody_is_told_what_nobody_asked():
    """A step without such a row computes no logprobs."""
    assert sample(logits_of(2), columns_of([Asked(plain())] * 2, VOCABULARY)).logprobs is None


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([-3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.5, 2.0, 3e38]), min_size=1, max_size=50),
    st.integers(1, 20),
)
def test_equal_ones_come_by_id(values, count):
    """Among values full of ties, both zeros included, the best are those of a stable sort."""
    expected = sorted(range(len(values)), key=lambda token_id: (-torch.tensor(values)[token_id].item(), token_id))
    assert best_ids(torch.tensor([values]), count).tolist() == [expected[:count]]
