"""Draws a step's tokens: logits and columns in, what the step drew out.

Whether a row's numbers broke is asked of the raw logits: the minus infinities that bans and masks write are no fault.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cluster.engine.plan import SamplingColumns, StepResult
from cluster.engine.sampling.adjust import adjust
from cluster.engine.sampling.draw import Filters, draw
from cluster.engine.sampling.logprobs import report


def sample(logits: Tensor, columns: SamplingColumns) -> StepResult:
    """Draw one id per row of ``logits`` [S, V], any floating dtype."""
    scores = logits.float()
    # Extremes pass NaN on, and cost a tenth of isfinite over the row.
    finite = torch.isfinite(scores.amax(-1)) & torch.isfinite(scores.amin(-1))
    exhausted = None
    if columns.adjustments is not None:
        scores = scores.clone() if scores is logits else scores
        exhausted = adjust(scores, columns.adjustments)
    filters = Filters(columns.temperature, columns.top_p, columns.top_k, columns.min_p)
    ids = draw(scores, filters, columns.uniform)
    return StepResult(
        token_ids=ids.to(torch.int32).cpu().numpy(),
        finite=finite.cpu().numpy(),
        exhausted=None if exhausted is None else exhausted.cpu().numpy(),
        logprobs=None if columns.logprobs is None else report(logits, columns.logprobs, ids),
    )
