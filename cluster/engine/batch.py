"""Turns the rows the scheduler chose into the flat arrays of a StepPlan.

This is the only per-token work of the host, so it touches no Python object per token: ids and pages live in int32
arrays, and positions and slots of all rows are computed at once.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.engine.plan import StepPlan
from cluster.engine.sampling.columns import columns
from cluster.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Batch:
    """A step under way: its plan and the sequences behind it.

    Attributes:
        rows: one sequence per row of the plan.
        drawing: the sequences that draw, aligned with ``plan.sampling.rows``.
    """

    plan: StepPlan
    rows: list[Sequence]
    drawing: list[Sequence]


def build(decodes: list[Sequence], prefills: list[Sequence], page_size: int, vocab_size: int) -> Batch:
    """The batch that computes ``num_scheduled`` tokens of each sequence, decodes first."""
    rows = decodes + prefills
    counts = np.array([seq.num_scheduled for seq in rows], dtype=np.int32)
    starts = np.array([seq.num_computed for seq in rows], dtype=np.int32)
    cu_q = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(counts, out=cu_q[1:])
    row_of = np.repeat(np.arange(len(rows)), counts)
    positions = np.arange(cu_q[-1], dtype=np.int32) + (starts - cu_q[:-1])[row_of]
    block_tables = _block_tables(rows)
    pages = block_tables[row_of, positions // page_size].astype(np.int64)
    drawing = [i for i, seq in enumerate(rows) if seq.is_drawing]
    sequences = [rows[i] for i in drawing]
    plan = StepPlan(
        token_ids=_token_ids(decodes, prefills),
        positions=positions,
        slots=pages * page_size + positions % page_size,
        cu_q=cu_q,
        kv_lens=starts + counts,
        block_tables=block_tables,
        num_decodes=len(decodes),
        sampling=columns(drawing, sequences, vocab_size),
    )
    return Batch(plan=plan, rows=rows, drawing=sequences)


def _token_ids(decodes: list[Sequence], prefills: list[Sequence]) -> NDArray[np.int32]:
    flat = array("i", [seq.token_ids[-1] for seq in decodes])
    for seq in prefills:
        flat.extend(seq.token_ids[seq.num_computed : seq.num_computed + seq.num_scheduled])
    return np.frombuffer(flat, dtype=np.int32)


def _block_tables(rows: list[Sequence]) -> NDArray[np.int32]:
    width = max(len(seq.table.pages) for seq in rows) * np.dtype(np.int32).itemsize
    padded = b"".join([seq.table.pages.tobytes().ljust(width, b"\0") for seq in rows])
    return np.frombuffer(bytearray(padded), dtype=np.int32).reshape(len(rows), -1)
