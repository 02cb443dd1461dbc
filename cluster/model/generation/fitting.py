"""Whether ids and caches are of this model, asked before the blocks run: torch's own words would not tell."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cluster.errors import InvalidRequestError
from cluster.model.config import ChatGLM3Config


def require_known(ids: Tensor, shape: ChatGLM3Config) -> None:
    """Raise InvalidRequestError when an id has no row in the word embedding."""
    least, most = (int(end) for end in ids.aminmax())
    if least < 0 or most >= shape.padded_vocab_size:
        raise InvalidRequestError(
            f"input_ids holds {least if least < 0 else most}, but the model's ids are 0 to "
            f"{shape.padded_vocab_size - 1}; use the tokenizer of the same checkpoint.",
            param="input_ids",
        )


def require_own_cache(cache: Any, rows: int, shape: ChatGLM3Config) -> None:
    """Raise InvalidRequestError when what a cache holds was computed by another model, or for another batch."""
    held = [layer.keys.shape for layer in cache.layers if layer.keys is not None and layer.keys.numel()]
    if not held:
        return
    wanted = (rows, shape.multi_query_group_num, shape.kv_channels)
    if len(held) != shape.num_layers or any((size[0], size[1], size[3]) != wanted for size in held):
        batch, groups, length, dim = held[0]
        raise InvalidRequestError(
            f"past_key_values holds {len(held)} layers of [{batch}, {groups}, {length}, {dim}]; this model and batch "
            f"need {shape.num_layers} of [{rows}, {wanted[1]}, {length}, {wanted[2]}].",
            param="past_key_values",
        )
