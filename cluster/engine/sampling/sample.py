"""Draws a step's tokens: logits and columns in, what the step drew out.

Whether a row's numbers broke is asked of the raw logits: the minus infinities that bans and masks write are no fault.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine.plan import SamplingColumns, StepResult
from cluster.engine.sampling.adjust import adjust
from cluster.engine.sampling.draw import Filters, draw
from cluster.engine.sampling.logprobs import report
from cluster.engine.sampling.split import entry, join

NOTHING = StepResult(token_ids=np.empty(0, np.int32), finite=np.empty(0, np.bool_))  # of a step in which no row draws


class Scan(NamedTuple):
    """What one look at the raw logits of S rows tells.

    Attributes:
        best: int32 [S], the first of the largest; meaningless in rows that are not finite.
        is_finite: bool [S].
    """

    best: NDArray[np.int32]
    is_finite: NDArray[np.bool_]

    @classmethod
    def empty(cls, rows: int) -> Scan:
        """To be written to."""
        return cls(np.empty(rows, np.int32), np.empty(rows, np.bool_))

    @classmethod
    def of(cls, scores: Tensor) -> Scan:
        """Look at float32 ``scores`` [S, V]."""
        # Extremes pass NaN on, and cost a tenth of isfinite over the row.
        finite = torch.isfinite(scores.amax(-1)) & torch.isfinite(scores.amin(-1))
        return cls(scores.argmax(-1).to(torch.int32).cpu().numpy(), finite.cpu().numpy())


def sample(logits: Tensor, columns: SamplingColumns, scan: Scan | None = None) -> StepResult:
    """Draw one id per row of ``logits`` [S, V], any floating dtype; ``scan`` spares a look at them."""
    scores = logits.float()
    scan = scan or Scan.of(scores)
    if columns.adjustments is None and columns.logprobs is None and not columns.temperature.any():
        return StepResult(token_ids=scan.best, finite=scan.is_finite)
    exhausted = None
    if columns.adjustments is not None:
        scores = scores.clone() if scores is logits else scores
        exhausted = adjust(scores, columns.adjustments)
    filters = Filters(columns.temperature, columns.top_p, columns.top_k, columns.min_p)
    ids = draw(scores, filters, columns.uniform)
    return StepResult(
        token_ids=ids.to(torch.int32).cpu().numpy(),
        finite=scan.is_finite,
        exhausted=None if exhausted is None else exhausted.cpu().numpy(),
        logprobs=None if columns.logprobs is None else report(logits, columns.logprobs, ids),
    )


def sample_one_by_one(logits: Tensor, columns: SamplingColumns, scan: Scan | None = None) -> StepResult:
    """As ``sample``, equal to the last bit in any company: how a sum over a row is split depends on the other rows."""
    scans = [None] * len(logits) if scan is None else [Scan(*pair) for pair in zip(*map(_rows, scan), strict=True)]
    return join([sample(logits[i : i + 1], entry(columns, i), one) for i, one in enumerate(scans)])


def _rows(values: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    return [values[i : i + 1] for i in range(len(values))]
