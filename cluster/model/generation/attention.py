"""Attention of a padded batch over a transformers cache, for ``forward`` and ``generate``.

Rows are padded on the left. A padded query sees everything, so that its softmax is a number; nobody reads its output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cluster.errors import InvalidRequestError
from cluster.model.attention import attend_last


class CacheAttention:
    """The ``Attention`` of one forward pass over B rows of T tokens each.

    Args:
        cache: a transformers ``Cache``; its layers are [B, G, L, D].
        rows: B.
        mask: bool [B or 1, 1, T, L], true where a query may look; None for plain causality from the bottom right.
    """

    def __init__(self, cache: Any, rows: int, mask: Tensor | None) -> None:
        self._cache = cache
        self._rows = rows
        self._mask = mask

    def forward(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """See ``Attention.forward``; tokens are the B rows one after another, [B * T, ...]."""
        _, heads, dim = query.shape
        new = key_value.view(self._rows, -1, *key_value.shape[1:])  # [B, T, 2, G, D]
        keys, values = self._cache.update(new[:, :, 0].transpose(1, 2), new[:, :, 1].transpose(1, 2), layer)
        mask = None if self._mask is None else self._mask.to(query.device)
        if new.shape[1] == 1:
            return attend_last(query, keys.transpose(1, 2), values.transpose(1, 2), mask)
        return _attend(query.view(self._rows, -1, heads, dim), keys, values, mask).reshape(-1, heads * dim)


def visible(attention_mask: Tensor | None, rows: int, tokens: int, length: int, prefix: int = 0) -> Tensor | None:
    """What T new tokens may look at among L columns, see ``CacheAttention``.

    Args:
        attention_mask: [B or 1, L - prefix], 0 over padding; None without.
        rows: B.
        tokens: T.
        length: L, the cache after this pass.
        prefix: columns in front that every query sees and no mask speaks of.

    Raises:
        InvalidRequestError: the mask does not cover past and new tokens.
    """
    if attention_mask is None:
        return None
    if (
        attention_mask.dim() != 2
        or attention_mask.shape[0] not in {1, rows}
        or attention_mask.shape[1] != length - prefix
    ):
        raise InvalidRequestError(
            f"attention_mask is {list(attention_mask.shape)}; it must cover past and new tokens, "
            f"{[rows, length - prefix]}.",
            param="attention_mask",
        )
    if bool(attention_mask.all()):
        return None
    real = nn.functional.pad(attention_mask.bool(), (prefix, 0), value=True)
    causal = torch.ones(tokens, length, dtype=torch.bool, device=real.device).tril(length - tokens)
    seen = causal & real[:, None, None]
    return seen | ~real[:, None, -tokens:, None]


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, A, D], [B, G, L, D] -> [B, T, A, D]; heads of a group share their keys without a copy."""
    rows, tokens, heads, dim = query.shape
    groups, length = keys.shape[1:3]
    folded = query.view(rows, tokens, groups, heads // groups, dim).permute(0, 2, 3, 1, 4).flatten(0, 1)
    if mask is None and tokens != length:
        mask = torch.ones(tokens, length, dtype=torch.bool, device=query.device).tril(length - tokens)
    elif mask is not None:
        mask = mask.expand(rows, groups, tokens, length).reshape(rows * groups, 1, tokens, length)
    context = nn.functional.scaled_dot_product_attention(
        folded,  # [B * G, A / G, T, D]
        keys.flatten(0, 1).unsqueeze(1).expand(-1, heads // groups, -1, -1),
        values.flatten(0, 1).unsqueeze(1).expand(-1, heads // groups, -1, -1),
        attn_mask=mask,
        is_causal=mask is None,
    )
    by_row = context.view(rows, groups, heads // groups, tokens, dim)
    return by_row.permute(0, 3, 1, 2, 4).reshape(rows, tokens, heads, dim)
