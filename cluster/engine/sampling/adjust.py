"""Penalties, bias, bans and masks on the scores of the rows that ask for them.

Only touched scores are read and written, but for masks, which cover a whole row. A score never leaves float32's range
here: minus infinity means that an id may not be drawn, and nothing else does.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine.plan import Adjustments

_LARGEST = torch.finfo(torch.float32).max


def adjust(scores: Tensor, adjustments: Adjustments) -> Tensor:
    """Apply ``adjustments`` to float32 ``scores`` [S, V] in place; returns bool [S], True where no id is left."""
    if adjustments.weighed_rows.size:
        _weigh(scores, adjustments)
    if adjustments.forbidden_rows.size:
        scores[_upload(adjustments.forbidden_rows, scores), _upload(adjustments.forbidden_ids, scores)] = -torch.inf
    if adjustments.guided_rows.size:
        _mask(scores, adjustments)
    return scores.amax(-1) == -torch.inf


def _weigh(scores: Tensor, adjustments: Adjustments) -> None:
    rows, ids = _upload(adjustments.weighed_rows, scores), _upload(adjustments.weighed_ids, scores)
    factors, offsets = _upload(adjustments.factors, scores), _upload(adjustments.offsets, scores)
    found = scores[rows, ids]
    found = torch.where(found < 0, found * factors, found / factors)
    scores[rows, ids] = found.clamp_(-_LARGEST, _LARGEST).add_(offsets).clamp_(-_LARGEST, _LARGEST)


def _mask(scores: Tensor, adjustments: Adjustments) -> None:
    # Unpacked on the host: on a device it takes an int32 for each bit, which is ten times as much work on a CPU.
    bits = np.unpackbits((~adjustments.allowed).view(np.uint8), axis=1, bitorder="little").view(np.bool_)
    banned = torch.from_numpy(bits).to(scores.device, non_blocking=True)[:, : scores.shape[-1]]
    for row, mask in zip(adjustments.guided_rows.tolist(), banned, strict=True):
        scores[row].masked_fill_(mask, -torch.inf)


def _upload(values: NDArray[np.int32] | NDArray[np.float32], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, non_blocking=True)
