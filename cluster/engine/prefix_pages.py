"""A tuned prefix in the paged cache: pages of its own that every row's block table begins with.

The scheduler knows nothing of it. Tokens keep their positions and slots; a row only sees more keys than it has tokens.
The prefix stands at the end of its pages, so that a row's own tokens follow it without a gap and start on a page; the
few places before it in the first page hold nothing, and attention must hide them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cluster.engine.attention.kv_pool import KVPool
from cluster.engine.plan import StepPlan


def num_prefix_pages(rows: int, page_size: int) -> int:
    """Pages that so many rows of a prefix take."""
    return -(-rows // page_size) if rows else 0


class PrefixPages:
    """The prefix's place in a pool.

    Args:
        pool: its last pages become the prefix's.
        rows: keys and values [L, p, 2, G, D], p at least 1.

    Attributes:
        unused: places at the front of the first page that hold nothing; fewer than a page has.
    """

    def __init__(self, pool: KVPool, rows: Tensor) -> None:
        count = num_prefix_pages(rows.shape[1], pool.page_size)
        self._pages = np.arange(pool.num_pages - count, pool.num_pages, dtype=np.int32)
        self._tokens = count * pool.page_size
        self.unused = self._tokens - rows.shape[1]
        slots = np.arange(pool.num_pages * pool.page_size - rows.shape[1], pool.num_pages * pool.page_size)
        targets = torch.from_numpy(pool.token_rows(slots)).to(rows.device)  # [L, p, 2]
        pool.tokens[targets] = rows.flatten(3)

    def before(self, plan: StepPlan) -> StepPlan:
        """The plan with the prefix before each row."""
        first = np.broadcast_to(self._pages, (len(plan.kv_lens), len(self._pages)))
        return replace(
            plan,
            kv_lens=(plan.kv_lens + self._tokens).astype(np.int32),
            block_tables=np.hstack((first, plan.block_tables)),
        )
