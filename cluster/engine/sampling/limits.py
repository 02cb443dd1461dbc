"""Which sampling parameters an engine takes, decided before a request is queued.

Ids outside the vocabulary would be read from beyond a row of scores, so every id that a request names is checked here.
Numbers have the ranges that OpenAI's and vLLM's servers give them; what a request lists is bounded, because each step
pays for it. ``param`` of an error is the name that HTTP callers know.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from cluster.errors import InvalidRequestError
from cluster.protocol import SamplingParams

MAX_BIASES = 1024
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_IDS = 16384  # of all bad words together
MAX_LOGPROBS = 20


def check(sampling: SamplingParams, vocab_size: int) -> None:
    """Raise InvalidRequestError, which names the field, for parameters that cannot be served."""
    _check_numbers(sampling)
    _check_lengths(sampling)
    _check_bias(sampling.logit_bias, vocab_size)
    _check_bad_words(sampling.bad_words, vocab_size)
    check_ids("stop_ids", sampling.stop_ids, vocab_size)
    if sampling.logprobs is not None:
        _require_range("top_logprobs", sampling.logprobs, 0, MAX_LOGPROBS)


def check_ids(param: str, ids: Collection[int], vocab_size: int) -> None:
    """Raise InvalidRequestError unless all ids lie in the vocabulary."""
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        raise InvalidRequestError(f"Token ids must lie in [0, {vocab_size}).", param=param)


def _check_numbers(sampling: SamplingParams) -> None:
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise InvalidRequestError("temperature must be a finite number of at least 0.", param="temperature")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequestError("top_p must lie in (0, 1].", param="top_p")
    if not 0 <= sampling.top_k < 2**31:
        raise InvalidRequestError("top_k must not be negative.", param="top_k")
    if not (math.isfinite(sampling.repetition_penalty) and sampling.repetition_penalty > 0):
        raise InvalidRequestError("repetition_penalty must be a finite number above 0.", param="repetition_penalty")
    _require_range("min_p", sampling.min_p, 0, 1)
    _require_range("presence_penalty", sampling.presence_penalty, -2, 2)
    _require_range("frequency_penalty", sampling.frequency_penalty, -2, 2)


def _check_lengths(sampling: SamplingParams) -> None:
    if sampling.max_new_tokens < 0:
        raise InvalidRequestError("max_tokens must not be negative.", param="max_tokens")
    if not 0 <= sampling.min_new_tokens <= sampling.max_new_tokens:
        raise InvalidRequestError(
            f"min_tokens must lie in [0, max_tokens], here [0, {sampling.max_new_tokens}].", param="min_tokens"
        )


def _check_bias(logit_bias: dict[int, float], vocab_size: int) -> None:
    _require_at_most("logit_bias", len(logit_bias), MAX_BIASES, "ids")
    check_ids("logit_bias", logit_bias, vocab_size)
    for bias in logit_bias.values():
        _require_range("logit_bias", bias, -100, 100)


def _check_bad_words(bad_words: tuple[tuple[int, ...], ...], vocab_size: int) -> None:
    _require_at_most("bad_words", len(bad_words), MAX_BAD_WORDS, "words")
    _require_at_most("bad_words", sum(map(len, bad_words)), MAX_BAD_WORD_IDS, "tokens")
    for word in bad_words:
        if not word:
            raise InvalidRequestError("A bad word is empty.", param="bad_words")
        check_ids("bad_words", word, vocab_size)


def _require_range(param: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # false for NaN, too
        raise InvalidRequestError(f"{param} must lie in [{least}, {most}].", param=param)


def _require_at_most(param: str, number: int, most: int, what: str) -> None:
    if number > most:
        raise InvalidRequestError(f"{param} holds {number} {what}; at most {most} are taken.", param=param)
