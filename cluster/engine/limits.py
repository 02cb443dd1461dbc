"""Which requests an engine can ever serve, decided from the request alone.

A request passes here or is refused for good: the queue's length is another matter (the scheduler's). The last sampled
id is never fed back, so a request needs room for one token less than its prompt and answer together.
"""

from __future__ import annotations

import math

from cluster.engine.config import EngineConfig
from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.protocol import GenerateRequest, SamplingParams


def check(request: GenerateRequest, config: EngineConfig, num_pages: int) -> None:
    """Refuse what can never be served.

    Raises:
        InvalidRequestError: a field is out of range, or the request alone needs more pages than the pool has.
        ContextLengthExceededError: prompt and ``max_new_tokens`` do not fit ``config.context_length``.
    """
    _check_sampling(request.sampling)
    _check_ids("prompt_ids", request.prompt_ids, config.vocab_size)
    _check_ids("output_ids", request.output_ids, config.vocab_size)
    prompt, output = len(request.prompt_ids), request.sampling.max_new_tokens
    if not prompt:
        raise InvalidRequestError("The prompt is empty.", param="prompt_ids")
    if len(request.output_ids) > output:
        raise InvalidRequestError("More ids were emitted already than max_new_tokens allows.", param="output_ids")
    if prompt + output > config.context_length:
        raise ContextLengthExceededError(prompt_tokens=prompt, max_tokens=output, context_length=config.context_length)
    _check_pool(prompt + output - 1, (num_pages - 1) * config.page_size)


def _check_pool(needed: int, capacity: int) -> None:
    if needed > capacity:
        raise InvalidRequestError(
            f"The request may need {needed} tokens of KV cache, but this engine holds {capacity} in all. "
            "Shorten the messages or lower max_tokens.",
            param="max_tokens",
        )


def _check_ids(param: str, ids: list[int], vocab_size: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        raise InvalidRequestError(f"Token ids must lie in [0, {vocab_size}).", param=param)


def _check_sampling(sampling: SamplingParams) -> None:
    if sampling.max_new_tokens < 0:
        raise InvalidRequestError("max_tokens must not be negative.", param="max_tokens")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise InvalidRequestError("temperature must be a finite number of at least 0.", param="temperature")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequestError("top_p must lie in (0, 1].", param="top_p")
    if not 0 <= sampling.top_k < 2**31:
        raise InvalidRequestError("top_k must not be negative.", param="top_k")
