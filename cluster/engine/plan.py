"""One engine step as data: what the scheduler decides and what the runner computes.

Everything is flat: the tokens of all rows stand one after another, no padding. The scheduler fills numpy arrays; only
the runner turns them into tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SamplingColumns:
    """Sampling parameters of the rows that draw a token this step, one entry per drawing row.

    Attributes:
        rows: int32 [S], index of the row whose last token's logits are sampled.
        temperature: float32 [S]; 0 is greedy.
        top_p: float32 [S]; 1 is off.
        top_k: int32 [S]; 0 is off.
        uniform: float64 [S] in [0, 1), the draw of (seed, output index).
    """

    rows: NDArray[np.int32]
    temperature: NDArray[np.float32]
    top_p: NDArray[np.float32]
    top_k: NDArray[np.int32]
    uniform: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step over R rows (sequences) and T tokens. Decode rows (one token each) come first.

    Attributes:
        token_ids: int32 [T].
        positions: int32 [T], rotary position of each token.
        slots: int64 [T], page * page_size + offset where the token's key and value are written.
        cu_q: int32 [R + 1]; row r owns tokens cu_q[r]:cu_q[r + 1].
        kv_lens: int32 [R], tokens of the row in the cache once this step's are written.
        block_tables: int32 [R, P], pages of each row in order, padded with page 0.
        num_decodes: the first rows, which have exactly one token.
        sampling: the rows that draw.
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    slots: NDArray[np.int64]
    cu_q: NDArray[np.int32]
    kv_lens: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    num_decodes: int
    sampling: SamplingColumns


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step drew, aligned with ``StepPlan.sampling.rows``.

    Attributes:
        token_ids: int32 [S].
        finite: bool [S]; False where the row's logits held NaN or infinity (its token id is meaningless).
    """

    token_ids: NDArray[np.int32]
    finite: NDArray[np.bool_]


class Runner(Protocol):
    """Computes steps on a device. ``num_pages`` includes the null page 0, the target of padding."""

    num_pages: int
    page_size: int

    def run(self, plan: StepPlan) -> StepResult:
        """Write the step's keys and values, attend, and draw. Blocking; called from the engine's own thread."""
        ...
