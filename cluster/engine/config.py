"""The engine's sizes and limits, frozen and checked once.

``num_pages`` includes the null page 0, which holds no tokens; left out, the runner's own number holds (a runner on a
GPU sizes its pool by the memory that loading left free).
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.errors import ConfigurationError

_POSITIVE = (
    "context_length",
    "vocab_size",
    "page_size",
    "max_num_seqs",
    "max_batched_tokens",
    "max_prefill_while_decoding",
    "max_waiting",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Sizes and limits of one engine. Raises ConfigurationError when they cannot work together.

    Attributes:
        model_id: names weights, dtype and quantization; the root of every cache key, so that keys of different models
            never meet.
        context_length: positions the model has.
        vocab_size: ids the model can embed; larger ids are refused before they reach a device.
        page_size: tokens in a page.
        num_pages: pages in the pool, null page included; None takes the runner's number.
        max_num_seqs: sequences in the batch at once.
        max_batched_tokens: tokens computed in one step, decodes and prefill chunks together.
        max_prefill_while_decoding: of those, prompt tokens while any answer is being generated: bounds what
            a long prompt adds to the time between two tokens of a stream. Small chunks read all weights for few tokens;
            from about 256 on a step is bound by computing, so that larger ones gain little.
        max_waiting: sequences queued before new ones are refused, except those of a tenant with less than its share of
            the queue, which may fill it twice; bounds memory.
        max_wait_s: predicted seconds in the queue beyond which new ones are refused; infinity never refuses.
        max_named_tenants: tenants whose use of the cache is told apart, see ``tenant_use``; 0 tells nobody's.
    """

    model_id: str
    context_length: int
    vocab_size: int
    page_size: int = 16
    num_pages: int | None = None
    max_num_seqs: int = 64
    max_batched_tokens: int = 512
    max_prefill_while_decoding: int = 256
    max_waiting: int = 256
    max_wait_s: float = 30.0
    max_named_tenants: int = 20

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.max_wait_s > 0:
            raise ConfigurationError(f"max_wait_s must be above 0, not {self.max_wait_s}.")
        if self.max_named_tenants < 0:
            raise ConfigurationError(f"max_named_tenants must be at least 0, not {self.max_named_tenants}.")
        if self.num_pages is not None and self.num_pages < 2:
            raise ConfigurationError(f"num_pages must be at least 2 (page 0 is not usable), not {self.num_pages}.")
        if self.max_batched_tokens <= self.max_num_seqs:
            raise ConfigurationError(
                f"max_batched_tokens ({self.max_batched_tokens}) must exceed max_num_seqs ({self.max_num_seqs}), "
                "or decodes could leave no room for any prefill."
            )
