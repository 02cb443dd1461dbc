"""Draws the next token of each row from its logits and one given uniform number.

Order as the published model: temperature, top-k (ties with the k-th kept), top-p over what is left (the best token
always stays), and then min-p (what is less probable than this share of the best goes). The draw is the inverse of the
distribution function *in the order of token ids*: the first id at which the sum of the kept probabilities passes
``uniform``. Id order does not change when two nearly equal logits swap places, so a draw is stable against the last
bits of a matrix product; sorting by value would not be.

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


class Filters(NamedTuple):
    """Temperature and what drops improbable ids, of R rows.

    Attributes:
        temperature: [R]; 0 is greedy.
        top_p: [R]; 1 is off.
        top_k: [R]; 0 is off.
        min_p: [R]; 0 is off. None: off everywhere.
    """

    temperature: NDArray[np.float32]
    top_p: NDArray[np.float32]
    top_k: NDArray[np.int32]
    min_p: NDArray[np.float32] | None = None

    @property
    def is_on(self) -> NDArray[np.bool_]:
        """Whether any filter may drop an id, as bool [R]."""
        is_on = (self.top_k > 0) | (self.top_p < 1)
        return is_on if self.min_p is None else is_on | (self.min_p > 0)

    def take(self, rows: list[int]) -> Filters:
        """Those of some rows."""
        min_p = None if self.min_p is None else self.min_p[rows]
        return Filters(self.temperature[rows], self.top_p[rows], self.top_k[rows], min_p)


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


def draw(scores: Tensor, filters: Filters, uniform: NDArray[np.float64]) -> Tensor:
    """Draw one id per row; int64 [S]. Of a row that holds NaN, plus infinity or nothing finite, any id.

    Args:
        scores: float32 [S, V]; minus infinity is never drawn.
        filters: of S rows.
        uniform: [S] in [0, 1).
    """
    ids = scores.argmax(-1)
    is_drawn = filters.temperature > 0
    is_filtered = is_drawn & filters.is_on
    if rows := _rows(is_filtered):
        _put(ids, rows, _draw_filtered(_take(scores, rows), filters.take(rows), uniform[rows]))
    if rows := _rows(is_drawn & ~is_filtered):
        _put(ids, rows, _draw_plain(_take(scores, rows), filters.temperature[rows], uniform[rows]))
    return ids


def keep(scores: Tensor, filters: Filters, candidates: int) -> Kept:
    """Apply ``filters`` to the best ``candidates`` of each row. scores: float32 [R, V]."""
    temperature, top_p, top_k, min_p = filters
    device = scores.device
    values, ids = best(scores, candidates)
    column = torch.from_numpy(np.maximum(temperature, _MIN_TEMPERATURE)).to(device)[:, None]
    scaled = ((values - values[:, :1]) / column).double()
    weights = torch.where(values >= _threshold(values, top_k), scaled.exp(), 0.0)
    share = weights / _total(scores, values, weights, column, top_k)
    before = share.cumsum(-1) - share  # the mass of strictly better candidates
    limit = np.where(top_p < 1, top_p.astype(np.float64), np.inf)  # sums that round up to 1 drop nothing when it is off
    kept = before < torch.from_numpy(limit).to(device)[:, None]
    if min_p is not None:
        kept &= weights >= torch.from_numpy(min_p.astype(np.float64)).to(device)[:, None]  # the best one's weight is 1
    kept[:, 0] = True
    weights = torch.where(kept, weights, 0.0)
    reaches_end = ((weights > 0) & (values == values[:, -1:])).any(-1)
    return Kept(ids, weights, ~reaches_end | (values.shape[-1] == scores.shape[-1]))


def _draw_filtered(scores: Tensor, filters: Filters, uniform: NDArray[np.float64]) -> Tensor:
    has_small_k = bool(((filters.top_k > 0) & (filters.top_k <= _SMALL_TOP_K)).all())
    kept = keep(scores, filters, _FEW if has_small_k else _MANY)
    ids = _draw_kept(kept, uniform)
    if rows := _rows(~kept.is_complete.cpu().numpy()):
        whole = keep(_take(scores, rows), filters.take(rows), scores.shape[-1])
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


def best(scores: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Values and ids [R, K] of the best, by value descending, equal values by id ascending.

    Of several that equal the last one, which are among the K is the device's choice.
    """
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
