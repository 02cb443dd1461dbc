"""Log-probabilities of the drawn id and of the best ones, of the model's own distribution.

They are read off the raw logits: before penalties, bias, bans, masks, temperature and filters. Equal ones are in the
order of ids on every device, which a plain ``topk`` does not promise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine.plan import DrawnLogprobs
from cluster.engine.sampling.draw import best


class Raw(NamedTuple):
    """The logits of the rows that ask, kept aside before the scores are adjusted in place.

    Attributes:
        rows: int32 [L].
        counts: int32 [L].
        logits: float32 [L, V].
    """

    rows: NDArray[np.int32]
    counts: NDArray[np.int32]
    logits: Tensor


def set_aside(scores: Tensor, asked: NDArray[np.int32]) -> Raw:
    """Copy the rows of ``scores`` [S, V] that ask for logprobs: ``asked`` [S] is not negative."""
    rows = np.flatnonzero(asked >= 0).astype(np.int32)
    return Raw(rows, asked[rows], scores[torch.from_numpy(rows).to(scores.device)])


def report(raw: Raw, ids: Tensor) -> DrawnLogprobs:
    """The logprobs of the drawn ``ids`` int64 [S] and of each row's best."""
    drawn = ids[torch.from_numpy(raw.rows).to(ids.device)][:, None]
    total = raw.logits.logsumexp(-1, keepdim=True)
    top_ids = best_ids(raw.logits, max(int(raw.counts.max()), 1))
    return DrawnLogprobs(
        rows=raw.rows,
        counts=raw.counts,
        drawn=(raw.logits.gather(-1, drawn) - total)[:, 0].cpu().numpy(),
        top_ids=top_ids.to(torch.int32).cpu().numpy(),
        top=(raw.logits.gather(-1, top_ids) - total).cpu().numpy(),
    )


def best_ids(logits: Tensor, count: int) -> Tensor:
    """Ids int64 [R, min(count, V)] of the largest float32 ``logits`` [R, V], equal ones by id."""
    values, ids = best(logits, count)
    last = values[:, -1:]
    is_crowded = (logits == last).sum(-1) > (values == last).sum(-1)
    for row in is_crowded.nonzero()[:, 0].tolist():
        ids[row] = _ranked(logits[row], float(last[row]), ids.shape[-1])
    return ids


def _ranked(logits: Tensor, least: float, count: int) -> Tensor:
    """Ids of the ``count`` largest of one row [V], of which that many are at least ``least``."""
    ids = (logits >= least).nonzero()[:, 0]
    return ids[logits[ids].sort(descending=True, stable=True).indices[:count]]
