"""Paged attention in plain torch: gather a row's pages side by side, then run the fused kernel over them.

Works on every device. Decode rows are attended together, short ones padded to the longest and masked, as long as the
padding costs less than another call would; prefill rows go one by one. Everything is planned on the host from the
step's numpy arrays, so a device is never waited for.

What a mask hides must still be finite: a hidden NaN survives the kernel's sum. Pages are therefore zeroed when a row
opens them, or what a failed sequence left in a page could spoil its next owner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine.attention.kv_pool import KVPool
from cluster.engine.plan import StepPlan
from cluster.model.attention import attend_chunk, attend_last, causal_mask

# Padded tokens that cost about as much as one more kernel call over a separate group of rows.
CPU_PADDING = 256
CUDA_PADDING = 8192


@dataclass(frozen=True, slots=True)
class _Decodes:
    """Decode rows attended in one call.

    Attributes:
        tokens: int64 [B] on the device, or the run of tokens these are.
        halves: per layer int64 [2 * B * pages] on the device, rows of ``KVPool.halves``.
        rows: B.
        length: of the longest row.
        mask: additive [B, 1, 1, length], None when all rows are equally long.
    """

    tokens: slice | Tensor
    halves: tuple[Tensor, ...]
    rows: int
    length: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One prefill row.

    Attributes:
        tokens: its tokens of the step.
        halves: per layer int64 [2 * pages]; None when nothing of the sequence was in the cache before.
        length: tokens in the cache, this step's included.
        mask: as ``causal_mask`` gives it.
    """

    tokens: slice
    halves: tuple[Tensor, ...] | None
    length: int
    mask: Tensor | None


class GatherAttention:
    """``AttentionBackend`` over a ``KVPool`` with torch operations alone.

    Args:
        pool: where keys and values live.
        padding: padded tokens worth saving one kernel call; see ``CPU_PADDING``.
        unused: places at the front of every row that hold nothing, see ``cluster.engine.prefix_pages``.
    """

    def __init__(self, pool: KVPool, *, padding: int, unused: int = 0) -> None:
        self._pool = pool
        self._padding = padding
        self._unused = unused
        self._device = pool.pages.device
        self._dtype = pool.pages.dtype
        self._targets: tuple[Tensor, ...] = ()  # per layer [T, 2], rows of pool.tokens
        self._parts: list[_Decodes | _Chunk] = []  # each token of the step is in one of them

    def begin(self, plan: StepPlan) -> None:
        """See ``AttentionBackend.begin``."""
        self._zero_opened(plan)
        self._targets = self._upload(self._pool.token_rows(plan.slots))
        groups = group_by_length(plan.kv_lens[: plan.num_decodes], self._padding)
        self._parts = [self._plan_decodes(plan, rows) for rows in groups]
        self._parts += [self._plan_chunk(plan, row) for row in range(plan.num_decodes, len(plan.kv_lens))]

    def forward(self, layer: int, query: Tensor, key_value: Tensor) -> Tensor:
        """See ``Attention.forward``."""
        self._pool.tokens.index_put_((self._targets[layer],), key_value.flatten(2))
        if len(self._parts) == 1:
            return self._attend(layer, self._parts[0], query, key_value)
        context = query.new_empty(query.shape[0], query.shape[1] * query.shape[2])
        for part in self._parts:
            context[part.tokens] = self._attend(layer, part, query, key_value)
        return context

    def _attend(self, layer: int, part: _Decodes | _Chunk, query: Tensor, key_value: Tensor) -> Tensor:
        mine = query[part.tokens]
        if isinstance(part, _Decodes):
            keys, values = self._gathered(part.halves[layer], part.rows, part.length)
            return attend_last(mine, keys, values, part.mask)
        if part.halves is None:
            keys, values = key_value[part.tokens].unbind(1)
            return attend_chunk(mine, keys, values, part.mask)
        keys, values = self._gathered(part.halves[layer], 1, part.length)
        return attend_chunk(mine, keys[0], values[0], part.mask)

    def _gathered(self, halves: Tensor, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, length, G, D] of gathered pages."""
        pool = self._pool
        pages = pool.halves.index_select(0, halves).view(2, rows, -1, pool.groups, pool.dim)
        keys, values = pages[:, :, :length].unbind(0)
        return keys, values

    def _plan_decodes(self, plan: StepPlan, rows: NDArray[np.int64]) -> _Decodes:
        is_all = len(rows) == plan.num_decodes
        lengths = plan.kv_lens[rows]
        longest = int(lengths.max())
        pages = plan.block_tables[rows, : self._num_pages(longest)]
        return _Decodes(
            tokens=slice(0, len(rows)) if is_all else torch.from_numpy(rows).to(self._device),
            halves=self._upload(self._flat_rows(pages)),
            rows=len(rows),
            length=longest,
            mask=self._length_mask(lengths),
        )

    def _plan_chunk(self, plan: StepPlan, row: int) -> _Chunk:
        tokens = slice(int(plan.cu_q[row]), int(plan.cu_q[row + 1]))
        fresh, length = tokens.stop - tokens.start, int(plan.kv_lens[row])
        pages = plan.block_tables[row, : self._num_pages(length)]
        return _Chunk(
            tokens=tokens,
            halves=None if fresh == length else self._upload(self._flat_rows(pages)),
            length=length,
            mask=self._without_unused(causal_mask(fresh, length, self._dtype, self._device)),
        )

    def _without_unused(self, mask: Tensor | None) -> Tensor | None:
        """The mask, hiding places that hold nothing too; where there are any, no mask is None."""
        if mask is not None:
            mask[..., : self._unused] = float("-inf")
        return mask

    def _length_mask(self, lengths: NDArray[np.int32]) -> Tensor | None:
        longest = lengths.max()
        if (lengths == longest).all() and not self._unused:
            return None
        hidden = torch.from_numpy(np.arange(longest) >= lengths[:, None]).to(self._device)
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return self._without_unused(mask.masked_fill_(hidden, float("-inf"))[:, None, None])

    def _zero_opened(self, plan: StepPlan) -> None:
        """Clear pages that this step opens and does not fill: the last page of a row, if the row enters it now."""
        last = (plan.kv_lens - 1) // self._pool.page_size
        before = plan.kv_lens - np.diff(plan.cu_q)  # tokens in the cache before this step
        is_opened = (last * self._pool.page_size >= before) & (plan.kv_lens % self._pool.page_size != 0)
        rows = np.flatnonzero(is_opened)
        if rows.size:
            pages = plan.block_tables[rows, last[rows]].astype(np.int64)
            self._pool.pages.index_fill_(0, torch.from_numpy(pages).to(self._device), 0)

    def _num_pages(self, length: int) -> int:
        return -(-length // self._pool.page_size)

    def _flat_rows(self, pages: NDArray[np.int32]) -> NDArray[np.int64]:
        return self._pool.half_rows(pages.ravel().astype(np.int64)).reshape(self._pool.num_layers, -1)

    def _upload(self, per_layer: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """One device tensor per layer, uploaded in one copy."""
        return torch.from_numpy(np.ascontiguousarray(per_layer)).to(self._device, non_blocking=True).unbind(0)


def group_by_length(lengths: NDArray[np.int32], padding: int) -> list[NDArray[np.int64]]:
    """Split rows into groups to be padded to their longest: a row joins while its padding is at most ``padding``.

    A single group keeps the rows' order. Returns row indices, int64; no rows, no groups.
    """
    if not lengths.size:
        return []
    if lengths.max() - lengths.min() <= padding:
        return [np.arange(lengths.size)]
    order = np.argsort(-lengths, kind="stable")
    groups = [[order[0]]]
    for row in order[1:]:
        if lengths[groups[-1][0]] - lengths[row] <= padding:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [np.array(group, dtype=np.int64) for group in groups]


def attention_for(pool: KVPool, *, unused: int = 0) -> GatherAttention:
    """The attention for the device the pool lives on; ``unused`` as in ``GatherAttention``."""
    padding = CPU_PADDING if pool.pages.device.type == "cpu" else CUDA_PADDING
    return GatherAttention(pool, padding=padding, unused=unused)
