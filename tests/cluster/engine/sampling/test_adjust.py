"""Adjusted scores are those that transformers' own processors compute, for the rows that ask and no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from cluster.engine.sampling.adjust import adjust
from tests.fakes.drawing import Asked, columns_of, plain
from tests.fakes.scripted_guide import ScriptedGuide

VOCABULARY = 77  # not a multiple of a mask's 32 bits

ids = st.integers(0, 11)  # few, so that ids repeat and bad words' prefixes match
prompts, outputs = st.lists(ids, min_size=1, max_size=8), st.lists(ids, max_size=8)


def scores_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def adjusted(rows: list[Asked], scores: torch.Tensor) -> torch.Tensor:
    result = scores.clone()
    adjustments = columns_of(rows, VOCABULARY).adjustments
    assert adjustments is not None
    adjust(result, adjustments)
    return result


def processed(processor, asked: Asked, scores: torch.Tensor) -> torch.Tensor:
    """What a processor of transformers makes of one row of scores [V]."""
    return processor(torch.tensor([asked.prompt + asked.output]), scores[None].clone())[0]


@settings(max_examples=60)
@given(prompt=prompts, output=outputs, penalty=st.floats(0.25, 4.0))
def test_repetition_penalty_is_that_of_transformers(prompt, output, penalty):
    """Every id of prompt and output, once, to the last bit."""
    asked, scores = Asked(plain(repetition_penalty=penalty), prompt, output), scores_of(1)
    [found] = adjusted([asked], scores) if penalty != 1 else scores
    assert torch.equal(found, processed(RepetitionPenaltyLogitsProcessor(penalty), asked, scores[0]))


@settings(max_examples=60)
@given(
    prompt=prompts,
    output=outputs,
    words=st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), min_size=1, max_size=12, unique=True),
)
def test_bad_words_are_those_of_transformers(prompt, output, words):
    """Prefixes are looked for across prompt and output; a stop id alone is no bad word."""
    stops = (4, 5)
    asked, scores = Asked(plain(bad_words=tuple(words), stop_ids=stops), prompt, output), scores_of(1)
    processor = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=list(stops))
    try:
        expected = processed(processor, asked, scores[0])
    except ValueError:  # transformers takes no list that is empty once single stop ids are gone
        expected = scores[0]
    assert torch.equal(adjusted([asked], scores)[0], expected)


@pytest.mark.parametrize("num_outputs", range(5))
def test_min_new_tokens_is_that_of_transformers(num_outputs):
    """Stop ids are masked while the output is shorter, forced ids included."""
    asked, scores = Asked(plain(min_new_tokens=3, stop_ids=(2, 70)), [1, 2, 3], [9] * num_outputs), scores_of(1)
    processor = MinNewTokensLengthLogitsProcessor(3, 3, [2, 70])
    assert torch.equal(adjusted([asked], scores)[0], processed(processor, asked, scores[0]))


def test_logit_bias_is_that_of_transformers():
    """Added to the scores of the ids it names."""
    bias = {3: 1.5, 40: -100.0, 76: 100.0}
    asked, scores = Asked(plain(logit_bias=bias)), scores_of(1)
    processor = SequenceBiasLogitsProcessor([[[token_id], value] for token_id, value in bias.items()])
    assert torch.equal(adjusted([asked], scores)[0], processed(processor, asked, scores[0]))


@settings(max_examples=60)
@given(prompt=prompts, output=outputs, presence=st.floats(-2, 2), frequency=st.floats(-2, 2))
def test_presence_and_frequency_penalties_follow_their_definition(prompt, output, presence, frequency):
    """Less presence where the output holds an id, and frequency per time; the prompt does not count."""
    asked = Asked(plain(presence_penalty=presence, frequency_penalty=frequency, logit_bias={0: 0.0}), prompt, output)
    scores = scores_of(1)
    counts = torch.bincount(torch.tensor(output, dtype=torch.long), minlength=VOCABULARY).double()
    expected = scores[0].double() - presence * (counts > 0) - frequency * counts
    torch.testing.assert_close(adjusted([asked], scores)[0].double(), expected, atol=1e-5, rtol=0)


def test_penalties_come_before_bias():
    """A bias is neither divided nor multiplied by the repetition penalty."""
    sampling = plain(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={7: 3.0})
    scores = torch.zeros(1, VOCABULARY)
    scores[0, 7] = 4.0
    [found] = adjusted([Asked(sampling, [1], [7, 7])], scores)
    assert found[7] == 4.0 / 2.0 - 0.5 - 2 * 0.25 + 3.0


def test_a_mask_leaves_what_it_allows():
    """Also the last ids, whose word is not full, and the one in a word's sign bit."""
    allowed = {0, 31, 32, 63, 76}
    scores = scores_of(1)
    [found] = adjusted([Asked(plain(), guide=ScriptedGuide([allowed]))], scores)
    assert set(torch.nonzero(found > -torch.inf).flatten().tolist()) == allowed
    assert torch.equal(found[sorted(allowed)], scores[0, sorted(allowed)])


def test_only_the_rows_that_ask_change():
    """Neighbours keep their scores to the bit, wherever they stand."""
    scores = scores_of(5)
    asking = {
        1: Asked(plain(repetition_penalty=1.3), [5, 6]),
        2: Asked(plain(bad_words=((8,),))),
        4: Asked(plain(), guide=ScriptedGuide([{1, 2}])),
    }
    found = adjusted([asking.get(row, Asked(plain())) for row in range(5)], scores)
    for row in range(5):
        alone = adjusted([asking[row]], scores[row : row + 1])[0] if row in asking else scores[row]
        assert torch.equal(found[row], alone)


def test_a_row_without_any_id_left_is_told():
    """Masks that contradict each other exhaust a row, and it alone."""
    rows = [
        Asked(plain(), guide=ScriptedGuide([{1, 2}])),
        Asked(plain(bad_words=((1,), (2,))), guide=ScriptedGuide([{1, 2}])),
        Asked(plain(), guide=ScriptedGuide([set()])),
        Asked(plain()),
    ]
    adjustments = columns_of(rows, VOCABULARY).adjustments
    assert adjustments is not None
    assert adjust(scores_of(4), adjustments).tolist() == [False, True, True, False]


@pytest.mark.parametrize("penalty", [1e-300, 1e300])
def test_an_extreme_penalty_leaves_finite_scores(penalty):
    """The range of float32 is not left, so that nothing but a ban becomes minus infinity."""
    scores = torch.tensor([[-1e30, -2.0, 0.0, 2.0, 1e30]])
    adjustments = columns_of([Asked(plain(repetition_penalty=penalty, logit_bias={4: -100.0}), list(range(5)))], 5)
    assert adjustments.adjustments is not None
    adjust(scores, adjustments.adjustments)
    assert torch.isfinite(scores).all()


def test_plain_rows_have_no_adjustments():
    """Where nobody asks for anything, the step carries nothing."""
    columns = columns_of([Asked(plain()), Asked(plain(temperature=0.0, top_p=0.5, top_k=3))], VOCABULARY)
    assert (columns.adjustments, columns.min_p, columns.logprobs) == (None, None, None)
    columns = columns_of([Asked(plain(min_p=0.5)), Asked(plain(logprobs=0))], VOCABULARY)
    assert columns.adjustments is None
    assert (np.array([0.5, 0], np.float32) == columns.min_p).all()
    assert columns.logprobs is not None
    assert columns.logprobs.tolist() == [-1, 0]
