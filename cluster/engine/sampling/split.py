"""A step's draws one by one: its columns split into entries, and the entries' results put together again.

For a runner to which one row's arithmetic must not depend on how many rows there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cluster.engine.plan import Adjustments, DrawnLogprobs, SamplingColumns, StepResult


def entry(columns: SamplingColumns, index: int) -> SamplingColumns:
    """The columns of the entry ``index`` alone; what it does not ask for is None."""
    one = slice(index, index + 1)
    return SamplingColumns(
        rows=columns.rows[one],
        temperature=columns.temperature[one],
        top_p=columns.top_p[one],
        top_k=columns.top_k[one],
        uniform=columns.uniform[one],
        min_p=None if columns.min_p is None or not columns.min_p[index] else columns.min_p[one],
        logprobs=None if columns.logprobs is None or columns.logprobs[index] < 0 else columns.logprobs[one],
        adjustments=None if columns.adjustments is None else _of_row(columns.adjustments, index),
    )


def join(results: list[StepResult]) -> StepResult:
    """The step's result from those of its entries, each of one row."""
    parts = [one.exhausted for one in results]
    told = [(index, one.logprobs) for index, one in enumerate(results) if one.logprobs is not None]
    return StepResult(
        token_ids=np.concatenate([one.token_ids for one in results]),
        finite=np.concatenate([one.finite for one in results]),
        exhausted=_exhausted(parts) if any(part is not None for part in parts) else None,
        logprobs=_logprobs(told) if told else None,
    )


def _of_row(adjustments: Adjustments, row: int) -> Adjustments | None:
    weighed, forbidden = adjustments.weighed_rows == row, adjustments.forbidden_rows == row
    guided = adjustments.guided_rows == row
    if not (weighed.any() or forbidden.any() or guided.any()):
        return None
    return Adjustments(
        weighed_rows=np.zeros(np.count_nonzero(weighed), np.int32),
        weighed_ids=adjustments.weighed_ids[weighed],
        factors=adjustments.factors[weighed],
        offsets=adjustments.offsets[weighed],
        forbidden_rows=np.zeros(np.count_nonzero(forbidden), np.int32),
        forbidden_ids=adjustments.forbidden_ids[forbidden],
        guided_rows=np.zeros(np.count_nonzero(guided), np.int32),
        allowed=adjustments.allowed[guided],
    )


def _exhausted(parts: list[NDArray[np.bool_] | None]) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(1, np.bool_) if part is None else part for part in parts])


def _logprobs(told: list[tuple[int, DrawnLogprobs]]) -> DrawnLogprobs:
    parts = [one for _, one in told]
    width = max(part.top_ids.shape[1] for part in parts)
    missing = [((0, 0), (0, width - part.top_ids.shape[1])) for part in parts]
    return DrawnLogprobs(
        rows=np.array([index for index, _ in told], np.int32),
        counts=np.concatenate([part.counts for part in parts]),
        drawn=np.concatenate([part.drawn for part in parts]),
        top_ids=np.concatenate([np.pad(part.top_ids, pad) for part, pad in zip(parts, missing, strict=True)]),
        top=np.concatenate([np.pad(part.top, pad) for part, pad in zip(parts, missing, strict=True)]),
    )
