"""Paged attention whose every product has one shape: for the deterministic mode, on any device.

Each token of a tile goes over its own keys in blocks of a fixed size, first to last, with the running maximum and sum
of online softmax (Milakov and Gimelshein, 2018). How many blocks there are is up to the longest token of the tile, yet
changes nothing for the others: a block that a token does not see multiplies its sums by exp(0) and adds zeros, exactly.
So a token's context does not depend on whether it was prefilled or decoded, nor on its company.

Everything between the cache and the result is float32, whatever the model's dtype.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine.attention.kv_pool import KVPool
from cluster.engine.tiles import Tile

BLOCK_TOKENS = 128  # keys of one block, about: whole pages, at least one


class TiledAttention:
    """``cluster.model.attention.Attention`` over a ``KVPool``: ``begin`` once per tile, then ``forward`` per layer.

    ``unused`` places at the front of every row hold nothing, see ``cluster.engine.prefix_pages``.
    """

    def __init__(self, pool: KVPool, *, unused: int = 0) -> None:
        self._pool = pool
        self._unused = unused
        self._device = pool.pages.device
        self._pages_per_block = max(1, BLOCK_TOKENS // pool.page_size)
        self._targets: tuple[Tensor, ...] = ()  # per layer [N, 2], rows of pool.tokens
        self._blocks: list[tuple[Tensor, Tensor]] = []  # rows of layer 0's keys in pool.halves [M * pages]; see _hidden

    def begin(self, tile: Tile) -> None:
        """Prepare what all layers of the tile share."""
        rows = np.ascontiguousarray(self._pool.token_rows(tile.slots))
        self._targets = self._upload(rows).unbind(0)
        pages = self._blocked(tile)
        keys = self._upload(pages.astype(np.int64) * (2 * self._pool.num_layers))
        self._blocks = list(zip(keys.unbind(0), self._hidden(tile, len(pages)), strict=True))

    def forward(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """See ``Attention.forward``; what padding tokens compute is not stored."""
        targets = self._targets[layer]
        self._pool.tokens.index_put_((targets,), key_value[: len(targets)].flatten(2))
        tokens, heads, dim = query.shape
        groups = self._pool.groups
        folded = query.reshape(tokens * groups, heads // groups, dim).float() * dim**-0.5
        best = folded.new_full((*folded.shape[:2], 1), float("-inf"))
        total, context = torch.zeros_like(best), torch.zeros_like(folded)
        for first, hidden in self._blocks:
            keys, values = (self._gathered(first + (2 * layer + half), tokens) for half in (0, 1))
            # Filled, not masked by adding: what is hidden may be NaN that a failed sequence left in a page.
            values.masked_fill_(hidden.unsqueeze(-1), 0.0)
            scores = torch.bmm(folded, keys.transpose(1, 2)).masked_fill_(hidden.unsqueeze(1), float("-inf"))
            higher = torch.maximum(best, scores.amax(-1, keepdim=True))
            weights, kept = (scores - higher).exp_(), (best - higher).exp_()
            total = total * kept + weights.sum(-1, keepdim=True)
            context = context * kept + torch.bmm(weights, values)
            best = higher
        return (context / total).to(query.dtype).view(tokens, heads * dim)

    def _gathered(self, rows: Tensor, tokens: int) -> Tensor:
        """Keys or values [M * G, block, D] in float32 of the pages that hold a block of each token's cache."""
        pool = self._pool
        pages = pool.halves.index_select(0, rows).view(tokens, -1, pool.groups, pool.dim)
        by_group = torch.empty((tokens, pool.groups, pages.shape[1], pool.dim), device=self._device)
        return by_group.copy_(pages.transpose(1, 2)).flatten(0, 1)

    def _blocked(self, tile: Tile) -> NDArray[np.int32]:
        """Pages [blocks, M * pages per block] up to the longest token's last; beyond a table's end the null page."""
        block_tokens = self._pages_per_block * self._pool.page_size
        num_blocks = -(-int(tile.lengths.max()) // block_tokens)
        tables = np.zeros((len(tile.lengths), num_blocks * self._pages_per_block), np.int32)
        width = min(tables.shape[1], tile.block_tables.shape[1])
        tables[:, :width] = tile.block_tables[:, :width]
        return tables.reshape(len(tables), num_blocks, -1).swapaxes(0, 1).reshape(num_blocks, -1)

    def _hidden(self, tile: Tile, num_blocks: int) -> list[Tensor]:
        """Per block bool [M * G, block]: the keys that a token must not see."""
        places = np.arange(num_blocks * self._pages_per_block * self._pool.page_size)
        lengths = tile.lengths[:, None]
        is_hidden = (places >= lengths) | ((places < self._unused) & (lengths > self._unused))  # padding keeps its one
        hidden = self._upload(is_hidden).repeat_interleave(self._pool.groups, 0)
        return list(hidden.chunk(num_blocks, dim=1))

    def _upload(self, values: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(values).to(self._device, non_blocking=True)
