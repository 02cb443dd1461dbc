"""Sampling parameters that cannot be served are refused by name, and those at the edge of their range are taken."""

from __future__ import annotations

import math

import pytest

from cluster.engine.sampling.limits import MAX_BAD_WORD_IDS, MAX_BAD_WORDS, MAX_BIASES, check
from cluster.errors import InvalidRequestError
from cluster.protocol import SamplingParams

VOCABULARY = 5000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_p": -0.01}, "min_p"),
        ({"min_p": 1.01}, "min_p"),
        ({"min_p": math.nan}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"presence_penalty": math.nan}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"repetition_penalty": math.inf}, "repetition_penalty"),
        ({"repetition_penalty": math.nan}, "repetition_penalty"),
        ({"logit_bias": {VOCABULARY: 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: 100.5}}, "logit_bias"),
        ({"logit_bias": {1: math.nan}}, "logit_bias"),
        ({"logit_bias": {1: -math.inf}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(MAX_BIASES + 1), 1.0)}, "logit_bias"),
        ({"bad_words": ((),)}, "bad_words"),
        ({"bad_words": ((1, VOCABULARY),)}, "bad_words"),
        ({"bad_words": ((-1,),)}, "bad_words"),
        ({"bad_words": ((1,),) * (MAX_BAD_WORDS + 1)}, "bad_words"),
        ({"bad_words": ((1,) * (MAX_BAD_WORD_IDS + 1),)}, "bad_words"),
        ({"min_new_tokens": -1}, "min_tokens"),
        ({"min_new_tokens": 9}, "min_tokens"),
        ({"stop_ids": (VOCABULARY,)}, "stop_ids"),
        ({"logprobs": -1}, "top_logprobs"),
        ({"logprobs": 21}, "top_logprobs"),
    ],
    ids=str,
)
def test_a_parameter_out_of_range_is_named(fields, param):
    """The error tells which field to change."""
    with pytest.raises(InvalidRequestError) as caught:
        check(SamplingParams(max_new_tokens=8, **fields), VOCABULARY)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"min_p": 0.0},
        {"min_p": 1.0},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0},
        {"repetition_penalty": 1e-9},
        {"logit_bias": {0: -100.0, VOCABULARY - 1: 100.0}},
        {"logit_bias": dict.fromkeys(range(MAX_BIASES), 1.0)},
        {"bad_words": ((0,), (VOCABULARY - 1, 3, 4))},
        {"bad_words": ((1,),) * MAX_BAD_WORDS},
        {"min_new_tokens": 8},
        {"logprobs": 0},
        {"logprobs": 20},
    ],
    ids=str,
)
def test_a_parameter_at_its_limit_is_taken(fields):
    """Ranges include their ends."""
    check(SamplingParams(max_new_tokens=8, **fields), VOCABULARY)
