"""Cuts an engine step into tiles: always the same number of tokens, so that every computation has one shape.

A tile is not a chunk of one sequence. It takes the step's tokens as they come, of however many sequences, and each of
them says itself how much of which cache it sees. Tokens of one sequence stay in order, so keys and values that a token
needs are written by its own tile or an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.engine.plan import StepPlan


@dataclass(frozen=True, slots=True)
class Tile:
    """M tokens, of which the first N are the step's; the rest is padding, which sees one token of the null page.

    Attributes:
        token_ids: int32 [M].
        positions: int32 [M], rotary positions.
        lengths: int32 [M], tokens in the cache that each token sees, itself included.
        block_tables: int32 [M, P], pages of each token's sequence.
        slots: int64 [N], where keys and values are written.
    """

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    lengths: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    slots: NDArray[np.int64]

    @property
    def count(self) -> int:
        """N, the tokens that are no padding."""
        return len(self.slots)


def tiles_of(plan: StepPlan, size: int) -> Iterator[Tile]:
    """The tokens of ``plan`` in order, ``size`` to a tile; the last one is padded."""
    num_tokens = len(plan.token_ids)
    row_of = np.repeat(np.arange(len(plan.kv_lens)), np.diff(plan.cu_q))
    lengths = plan.kv_lens[row_of] - (plan.cu_q[row_of + 1] - 1 - np.arange(num_tokens, dtype=np.int32))
    for start in range(0, num_tokens, size):
        part = slice(start, min(start + size, num_tokens))
        missing = size - (part.stop - part.start)
        yield Tile(
            token_ids=np.pad(plan.token_ids[part], (0, missing)),
            positions=np.pad(plan.positions[part], (0, missing)),
            lengths=np.pad(lengths[part], (0, missing), constant_values=1),
            block_tables=np.pad(plan.block_tables[row_of[part]], ((0, missing), (0, 0))),
            slots=plan.slots[part],
        )
