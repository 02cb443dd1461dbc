"""Cuts the rows of a step into the units that attention works on: a few consecutive tokens of one row each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.engine.plan import StepPlan


class Spans(NamedTuple):
    """N units.

    Attributes:
        rows: int32 [N].
        tokens: int32 [N], the first one's place in the step.
        sizes: int32 [N].
        lengths: int32 [N], keys that the first token sees, its own included.
    """

    rows: NDArray[np.int32]
    tokens: NDArray[np.int32]
    sizes: NDArray[np.int32]
    lengths: NDArray[np.int32]


def spans(plan: StepPlan, size: int) -> Spans:
    """The units of a step, of at most ``size`` tokens; the longest contexts first, as they take longest."""
    counts = np.diff(plan.cu_q)
    pieces = -(-counts // size)
    rows = np.repeat(np.arange(len(counts), dtype=np.int32), pieces)
    within = np.arange(len(rows), dtype=np.int32) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    offsets = (within * size).astype(np.int32)
    lengths = (plan.kv_lens - counts + 1)[rows] + offsets
    order = np.argsort(-lengths, kind="stable")
    return Spans(
        rows=rows[order],
        tokens=(plan.cu_q[rows] + offsets)[order],
        sizes=np.minimum(counts[rows] - offsets, size)[order],
        lengths=lengths[order].astype(np.int32),
    )
