"""Which requests an engine can ever serve, decided from the request alone.

A request passes here or is refused for good: the queue's length is another matter (the scheduler's). The last sampled
id is never fed back, so a request needs room for one token less than its prompt and answer together.
"""

from __future__ import annotations

import math

from cluster.engine.config import EngineConfig
from cluster.engine.sampling import limits as sampling_limits
from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.protocol import GenerateRequest

MAX_PRIORITY = 100  # classes are looked through in every step
MIN_WEIGHT, MAX_WEIGHT = 1e-3, 1e6  # beyond, sums of shares lose their digits


def check(request: GenerateRequest, config: EngineConfig, num_pages: int) -> None:
    """Refuse what can never be served.

    Raises:
        InvalidRequestError: a field is out of range, or the request alone needs more pages than the pool has.
        ContextLengthExceededError: prompt and ``max_new_tokens`` do not fit ``config.context_length``.
    """
    sampling_limits.check(request.sampling, config.vocab_size)
    sampling_limits.check_ids("prompt_ids", request.prompt_ids, config.vocab_size)
    sampling_limits.check_ids("output_ids", request.output_ids, config.vocab_size)
    _check_scheduling(request)
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


def _check_scheduling(request: GenerateRequest) -> None:
    if abs(request.priority) > MAX_PRIORITY:
        raise InvalidRequestError(f"priority must lie in [-{MAX_PRIORITY}, {MAX_PRIORITY}].", param="priority")
    if request.deadline_s is not None and math.isnan(request.deadline_s):
        raise InvalidRequestError("deadline_s must be a number.", param="deadline_s")
    if not (MIN_WEIGHT <= request.weight <= MAX_WEIGHT):
        raise InvalidRequestError(f"weight must lie in [{MIN_WEIGHT}, {MAX_WEIGHT}].", param="weight")
    if not (math.isfinite(request.keep_s) and request.keep_s >= 0):
        raise InvalidRequestError("keep_s must be a finite number of at least 0.", param="keep_s")
