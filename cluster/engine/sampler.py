"""Draws the next token of each row from its logits and one given uniform number.

Order as the published model: temperature, top-k (ties with the k-th kept), top-p over what is left (the best token
always stays). The draw is the inverse of the distribution function *in the order of token ids*: the first id at which
the sum of the kept probabilities passes ``uniform``. Id order does not change when two nearly equal logits swap places,
so a draw is stable against the last bits of a matrix product; sorting by value would not be.

Filters look at a row's best few candidates first. A row whose kept set may reach past them is done again over the
whole vocabulary, alone; its neighbours are not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Candidates looked at: few where every row's top-k is small. Selecting 128 of 65,024 costs a seventh of 1024.
_FEW, _MANY = 128, 1024
_SMALL_TOP_K = _FEW // 2  # half, so that ties with the k-th rarely reach the end

# Below this the softmax of float32 logits is a maximum already; dividing by less would overflow.
_MIN_TEMPERATURE = 1e-6


class Kept(NamedTuple):
    """Candidates of R rows, best first.

    Attributes:
        ids: int64 [R, K].
        probabilities: float64 [R, K], not normalised; 0 for what the filters dropped.
        is_complete: bool [R], whether nothing beyond the candidates could have been kept.
    """

    ids: Tensor
    probabilities: Tensor
    is_complete: Tensor


def sample(
    logits: Tensor,
    temperature: NDArray[np.float32],
    top_p: NDArray[np.float32],
    top_k: NDArray[np.int32],
    uniform: NDArray[np.float64],
) -> tuple[Tensor, Tensor]:
    """Draw one id per row.

    Args:
        logits: [S, V], any floating dtype.
        temperature: [S]; 0 is greedy.
        top_p: [S]; 1 is off.
        top_k: [S]; 0 is off.
        uniform: [S] in [0, 1).

    Returns:
        ids int64 [S], and bool [S] that is False where the row's logits held NaN or infinity (its id means nothing).
    """
    scores = logits.float()
    # Extremes pass NaN on, and cost a tenth of isfinite over the row.
    finite = torch.isfinite(scores.amax(-1)) & torch.isfinite(scores.amin(-1))
    ids = scores.argmax(-1)
    is_drawn = temperature > 0
    is_filtered = is_drawn & ((top_k > 0) | (top_p < 1))
    if rows := _rows(is_filtered):
        _put(ids, rows, _draw_filtered(_take(scores, rows), temperature[rows], top_p[rows], top_k[rows], uniform[rows]))
    if rows := _rows(is_drawn & ~is_filtered):
        _put(ids, rows, _draw_plain(_take(scores, rows), temperature[rows], uniform[rows]))
    return ids, finite


def keep(
    scores: Tensor,
    temperature: NDArray[np.float32],
    top_p: NDArray[np.float32],
    top_k: NDArray[np.int32],
    candidates: int,
) -> Kept:
    """Apply temperature, top-k and top-p to the best ``candidates`` of each row. scores: float32 [R, V]."""
    device = scores.device
    values, ids = _best(scores, candidates)
    column = torch.from_numpy(np.maximum(temperature, _MIN_TEMPERATURE)).to(device)[:, None]
    scaled = ((values - values[:, :1]) / column).double()
    weights = torch.where(values >= _threshold(values, top_k), scaled.exp(), 0.0)
    share = weights / _total(scores, values, weights, column, top_k)
    before = share.cumsum(-1) - share  # the mass of strictly better candidates
    kept = before < torch.from_numpy(top_p.astype(np.float64)).to(device)[:, None]
    kept[:, 0] = True
    weights = torch.where(kept, weights, 0.0)
    reaches_end = ((weights > 0) & (values == values[:, -1:])).any(-1)
    return Kept(ids, weights, ~reaches_end | (values.shape[-1] == scores.shape[-1]))


def _draw_filtered(
    scores: Tensor,
    temperature: NDArray[np.float32],
    top_p: NDArray[np.float32],
    top_k: NDArray[np.int32],
    uniform: NDArray[np.float64],
) -> Tensor:
    has_small_k = bool(((top_k > 0) & (top_k <= _SMALL_TOP_K)).all())
    kept = keep(scores, temperature, top_p, top_k, _FEW if has_small_k else _MANY)
    ids = _draw_kept(kept, uniform)
    if rows := _rows(~kept.is_complete.cpu().numpy()):
        whole = keep(_take(scores, rows), temperature[rows], top_p[rows], top_k[rows], scores.shape[-1])
        _put(ids, rows, _draw_kept(whole, uniform[rows]))
    return ids


def _draw_kept(kept: Kept, uniform: NDArray[np.float64]) -> Tensor:
    ids, order = kept.ids.sort(-1)
    place = _invert(kept.probabilities.gather(-1, order), uniform)
    return ids.gather(-1, place)[:, 0]


def _draw_plain(scores: Tensor, temperature: NDArray[np.float32], uniform: NDArray[np.float64]) -> Tensor:
    column = torch.from_numpy(np.maximum(temperature, _MIN_TEMPERATURE)).to(scores.device)[:, None]
    weights = ((scores - scores.amax(-1, keepdim=True)) / column).exp()
    return _invert(weights.double(), uniform)[:, 0]


def _invert(weights: Tensor, uniform: NDArray[np.float64]) -> Tensor:
    """Index [R, 1] of the first entry at which the running sum of float64 ``weights`` [R, N] passes uniform * total."""
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    target = torch.from_numpy(uniform).to(weights.device)[:, None] * total
    # The product may round up to the total, which no sum passes; a row of NaN has no place at all.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target, right=True).clamp_(max=weights.shape[-1] - 1)


def _best(scores: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Values and ids [R, K] of the best, by value descending, equal values by id ascending."""
    _, ids = scores.topk(min(candidates, scores.shape[-1]), sorted=False)
    ids = ids.sort(-1).values
    values, order = scores.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def _threshold(values: Tensor, top_k: NDArray[np.int32]) -> Tensor:
    """The k-th best value of each row [R, 1]; minus infinity where top-k is off."""
    width = values.shape[-1]
    place = torch.from_numpy(np.clip(top_k.astype(np.int64), 1, width) - 1).to(values.device)[:, None]
    is_on = torch.from_numpy(top_k > 0).to(values.device)[:, None]
    return torch.where(is_on, values.gather(-1, place), float("-inf"))


def _total(scores: Tensor, values: Tensor, weights: Tensor, column: Tensor, top_k: NDArray[np.int32]) -> Tensor:
    """The mass [R, 1] that top-p is a share of: of the k best, or of the whole row where top-k is off."""
    total = weights.sum(-1, keepdim=True)
    if rows := _rows(top_k == 0):
        best = _take(values[:, :1], rows)
        whole = ((_take(scores, rows) - best) / _take(column, rows)).exp().sum(-1, keepdim=True, dtype=torch.float64)
        _put(total, rows, whole)
    return total


def _rows(mask: NDArray[np.bool_]) -> list[int]:
    rows: list[int] = np.flatnonzero(mask).tolist()
    return rows


def _take(values: Tensor, rows: list[int]) -> Tensor:
    return values if len(rows) == len(values) else values[rows]


def _put(values: Tensor, rows: list[int], new: Tensor) -> None:
    values[rows] = new
