"""Which requests an engine can ever serve, decided from the request alone.

A request passes here or is refused for good: the queue's length is another matter (the scheduler's). The last sampled
id is never fed back, so a request needs room for one token less than its prompt and answer together.
"""

from __future__ import annotations

from cluster.engine.config import EngineConfig
from cluster.engine.sampling import limits as sampling_limits
from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.protocol import GenerateRequest


def check(request: GenerateRequest, config: EngineConfig, num_pages: int) -> None:
    """Refuse what can never be served.

    Raises:
        InvalidRequestError: a field is out of range, or the request alone needs more pages than the pool has.
        ContextLengthExceededError: prompt and ``max_new_tokens`` do not fit ``config.context_length``.
    """
    sampling_limits.check(request.sampling, config.vocab_size)
    sampling_limits.check_ids("prompt_ids", request.prompt_ids, config.vocab_size)
    sampling_limits.check_ids("output_ids", request.output_ids, config.vocab_size)
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
