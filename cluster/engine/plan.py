"""One engine step as data: what the scheduler decides and what the runner computes.

Everything is flat: the tokens of all rows stand one after another, no padding. The scheduler fills numpy arrays; only
the runner turns them into tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.protocol import Logprobs


@dataclass(frozen=True, slots=True)
class Adjustments:
    """What is done to the scores of some drawing rows before temperature, in this order.

    Rows count the entries of ``SamplingColumns``. A weighed score s becomes (s / factor if s > 0 else s * factor) +
    offset; a forbidden one minus infinity; a guided row keeps what its mask allows.

    Attributes:
        weighed_rows: int32 [N].
        weighed_ids: int32 [N]; no pair of row and id twice.
        factors: float32 [N].
        offsets: float32 [N].
        forbidden_rows: int32 [F].
        forbidden_ids: int32 [F].
        guided_rows: int32 [G].
        allowed: int32 [G, ceil(V / 32)]; bit i % 32 of word i // 32 set: id i may be drawn (xgrammar's layout).
    """

    weighed_rows: NDArray[np.int32]
    weighed_ids: NDArray[np.int32]
    factors: NDArray[np.float32]
    offsets: NDArray[np.float32]
    forbidden_rows: NDArray[np.int32]
    forbidden_ids: NDArray[np.int32]
    guided_rows: NDArray[np.int32]
    allowed: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SamplingColumns:
    """Sampling parameters of the rows that draw a token this step, one entry per drawing row.

    The columns that may be None are so when no row of the step asks for what they hold.

    Attributes:
        rows: int32 [S], index of the row whose last token's logits are sampled.
        temperature: float32 [S]; 0 is greedy.
        top_p: float32 [S]; 1 is off.
        top_k: int32 [S]; 0 is off.
        uniform: float64 [S] in [0, 1), the draw of (seed, output index).
        min_p: float32 [S]; 0 is off.
        logprobs: int32 [S], how many of the best ids to report beside the drawn one; -1 reports nothing.
        adjustments: penalties, bias, bans and masks.
    """

    rows: NDArray[np.int32]
    temperature: NDArray[np.float32]
    top_p: NDArray[np.float32]
    top_k: NDArray[np.int32]
    uniform: NDArray[np.float64]
    min_p: NDArray[np.float32] | None = None
    logprobs: NDArray[np.int32] | None = None
    adjustments: Adjustments | None = None


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
class DrawnLogprobs:
    """Natural logarithms of probabilities of L rows, before adjustments, temperature and filters.

    Attributes:
        rows: int32 [L], entries of ``SamplingColumns``.
        counts: int32 [L], how many of the best each row asked for; at most N.
        drawn: float32 [L].
        top_ids: int32 [L, N], best first, equal ones by id.
        top: float32 [L, N].
    """

    rows: NDArray[np.int32]
    counts: NDArray[np.int32]
    drawn: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top: NDArray[np.float32]

    def by_row(self) -> dict[int, Logprobs]:
        """What is told of each row."""
        columns = (column.tolist() for column in (self.rows, self.counts, self.drawn, self.top_ids, self.top))
        return {
            row: Logprobs(drawn=drawn, top_ids=ids[:count], top=top[:count])
            for row, count, drawn, ids, top in zip(*columns, strict=True)
        }


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step drew, aligned with ``StepPlan.sampling.rows``.

    Attributes:
        token_ids: int32 [S].
        finite: bool [S]; False where the row's logits held NaN or infinity (its token id is meaningless).
        exhausted: bool [S]; True where adjustments left no id to draw (as meaningless); None without adjustments.
        logprobs: of the rows that asked for them; None when none did.
    """

    token_ids: NDArray[np.int32]
    finite: NDArray[np.bool_]
    exhausted: NDArray[np.bool_] | None = None
    logprobs: DrawnLogprobs | None = None


class Runner(Protocol):
    """Computes steps on a device. ``num_pages`` includes the null page 0, the target of padding."""

    num_pages: int
    page_size: int

    def run(self, plan: StepPlan) -> StepResult:
        """Write the step's keys and values, attend, and draw. Blocking; called from the engine's own thread."""
        ...
