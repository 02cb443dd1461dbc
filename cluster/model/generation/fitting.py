"""Whether ids and caches are of this model, asked before the blocks run: torch's own words would not tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from cluster.errors import InvalidRequestError
from cluster.model.config import ChatGLM3Config


def check_ids(ids: object) -> None:
    """Raise InvalidRequestError when ids are no tensor [batch, tokens], or none."""
    if not isinstance(ids, Tensor) or ids.dim() != 2 or not ids.numel():
        raise InvalidRequestError(
            "input_ids must be a tensor [batch, tokens] with at least one token.", param="input_ids"
        )


def require_known(ids: Tensor, shape: ChatGLM3Config) -> None:
    """Raise InvalidRequestError when an id has no row in the word embedding."""
    least, most = (int(end) for end in ids.aminmax())
    if least < 0 or most >= shape.padded_vocab_size:
        raise InvalidRequestError(
            f"input_ids holds {least if least < 0 else most}, but the model's ids are 0 to "
            f"{shape.padded_vocab_size - 1}; use the tokenizer of the same checkpoint.",
            param="input_ids",
        )


def check_cache(cache: object) -> None:
    """Raise InvalidRequestError when it is neither None nor a transformers cache (tuples are of older versions)."""
    if not isinstance(cache, Cache | None):
        raise InvalidRequestError(
            f"past_key_values is {type(cache).__name__}; it must be a transformers Cache, such as DynamicCache().",
            param="past_key_values",
        )


def check_past(past: Any, rows: int, shape: ChatGLM3Config, dtype: torch.dtype) -> None:
    """Raise InvalidRequestError when a cache holds what another model computed, or for another number of ``rows``."""
    check_cache(past)
    if past is None or not past.get_seq_length():
        return
    held = [layer.keys for layer in past.layers]
    wanted = (rows, shape.multi_query_group_num, shape.kv_channels, dtype)
    if len(held) != shape.num_layers or any(_kind(keys) not in {wanted, None} for keys in held):
        batch, groups, length, dim = held[0].shape
        raise InvalidRequestError(
            f"past_key_values holds {len(held)} layers of [{batch}, {groups}, {length}, {dim}] in {held[0].dtype}; "
            f"this model and batch need {shape.num_layers} of [{rows}, {wanted[1]}, {length}, {wanted[2]}] in {dtype}.",
            param="past_key_values",
        )


def _kind(keys: Tensor) -> tuple[int, int, int, torch.dtype] | None:
    """Rows, groups, channels and dtype of a layer; None where the cache keeps it in a form of its own."""
    return (*keys.shape[:2], keys.shape[3], keys.dtype) if keys.dim() == 4 else None
