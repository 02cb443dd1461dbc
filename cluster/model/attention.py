"""Grouped-query attention, and the seam through which a block reaches its keys and values.

Query head h reads key/value head ``h // (A / G)``. On CPU the A/G query heads of a group are folded into one axis, so
that one pass over the group's keys serves them all; the fused kernel's own ``enable_gqa`` repeats the keys instead.
Causality is bottom-right: the last query sees every key, whatever was in the cache before.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Attention(Protocol):
    """Where keys and values are kept and how they are attended; one object per forward pass."""

    def forward(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """Store this pass's keys and values, then attend.

        Args:
            layer: index of the block.
            query: [T, A, D], rotated.
            key_value: [T, 2, G, D]; axis 1 is (rotated key, value).

        Returns:
            Context [T, A * D], heads in order.
        """
        ...


def attend_last(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """One query token per row, attending to all its keys.

    Args:
        query: [B, A, D].
        keys: [B, L, G, D].
        values: [B, L, G, D].
        mask: None, or additive [B, 1, 1, L] in the query's dtype that hides the padding of short rows.

    Returns:
        [B, A * D].
    """
    rows, heads, dim = query.shape
    groups = keys.shape[2]
    folded = query.reshape(rows, groups, heads // groups, dim)
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    context = nn.functional.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return context.reshape(rows, heads * dim)


def attend_chunk(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """A run of consecutive query tokens of one sequence.

    Args:
        query: [T, A, D].
        keys: [L, G, D] with L >= T; the last T are the queries' own.
        values: [L, G, D].
        mask: ``causal_mask(T, L)``; None only where L == T.

    Returns:
        [T, A * D].
    """
    tokens, heads, dim = query.shape
    groups = keys.shape[1]
    folded = query.view(tokens, groups, heads // groups, dim).permute(1, 2, 0, 3)  # [G, A/G, T, D]
    context = nn.functional.scaled_dot_product_attention(
        folded,
        _per_head(keys, heads // groups),
        _per_head(values, heads // groups),
        attn_mask=mask,
        is_causal=mask is None,
    )
    return context.permute(2, 0, 1, 3).reshape(tokens, heads * dim)


def causal_mask(tokens: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Additive bottom-right causal mask [tokens, length]; None where the kernel's own causality is the same thing."""
    if tokens == length:
        return None
    hidden = torch.full((tokens, length), float("-inf"), dtype=dtype, device=device)
    return hidden.triu_(length - tokens + 1)


def _per_head(keys: Tensor, heads: int) -> Tensor:
    """[L, G, D] -> [G, heads, L, D] without copying: the heads of a group share memory."""
    return keys.transpose(0, 1).unsqueeze(1).expand(-1, heads, -1, -1)


class ContiguousAttention:
    """Keys and values of one sequence in memory, grown by every pass; for tests and short-lived use.

    ``key_value[layer]`` is [L, 2, G, D] once something was computed.

    Args:
        prefix: keys and values [layers, p, 2, G, D] that stand before the first token, see ``cluster.model.prefix``.
    """

    def __init__(self, prefix: Tensor | None = None) -> None:
        self.key_value: dict[int, Tensor] = {} if prefix is None else dict(enumerate(prefix))

    def forward(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """See ``Attention.forward``; the T tokens follow those of earlier passes."""
        held = self.key_value.get(layer)
        joined = key_value.clone() if held is None else torch.cat((held, key_value))
        self.key_value[layer] = joined
        mask = causal_mask(query.shape[0], joined.shape[0], query.dtype, query.device)
        return attend_chunk(query, joined[:, 0], joined[:, 1], mask)
