"""Log-probabilities of the drawn id and of the best ones, of the model's own distribution.

They are read off the raw logits: before penalties, bias, bans, masks, temperature and filters. Equal ones are in the
order of ids on every device, which a plain ``topk`` does not promise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine.plan import DrawnLogprobs
from cluster.engine.sampling.draw import best


def report(logits: Tensor, asked: NDArray[np.int32], ids: Tensor) -> DrawnLogprobs:
    """The logprobs of drawn ``ids`` int64 [S] and of each row's best, by raw ``logits`` [S, V].

    ``asked`` [S] is how many of the best a row wants to know, or -1: nothing. Some row wants to.
    """
    rows = np.flatnonzero(asked >= 0).astype(np.int32)
    if len(rows) < len(asked):
        kept = torch.from_numpy(rows).to(ids.device)
        logits, ids = logits[kept], ids[kept]
    logits = logits.float()
    total = logits.logsumexp(-1, keepdim=True)
    top_ids = best_ids(logits, int(asked.max()))
    return DrawnLogprobs(
        rows=rows,
        counts=asked[rows],
        drawn=(logits.gather(-1, ids[:, None]) - total)[:, 0].cpu().numpy(),
        top_ids=top_ids.to(torch.int32).cpu().numpy(),
        top=(logits.gather(-1, top_ids) - total).cpu().numpy(),
    )


def best_ids(logits: Tensor, count: int) -> Tensor:
    """Ids int64 [R, min(count, V)] of the largest float32 ``logits`` [R, V], equal ones by id."""
    values, ids = best(logits, count + 1)
    if not 0 < count < ids.shape[-1]:
        return ids[:, :count]
    is_tie_cut = values[:, count] == values[:, count - 1]
    for row in is_tie_cut.nonzero()[:, 0].tolist():
        ids[row, :count] = _ranked(logits[row], float(values[row, count]), count)
    return ids[:, :count]


def _ranked(logits: Tensor, least: float, count: int) -> Tensor:
    """Ids of the ``count`` largest of one row [V], of which more than that are at least ``least``."""
    ids = (logits >= least).nonzero()[:, 0]
    return ids[logits[ids].sort(descending=True, stable=True).indices[:count]]
