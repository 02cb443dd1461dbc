"""Computes engine steps: numpy plan in, drawn ids out. The only place of the engine where tensors meet the scheduler.

Only rows that draw get logits. Everything a plan says is taken as given: positions below the context's end and pages
that belong to their rows are the scheduler's promise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine.attention.gather import attention_for
from cluster.engine.attention.kv_pool import KVPool, allocate_pool, num_pages_for
from cluster.engine.plan import SamplingColumns, StepPlan, StepResult
from cluster.engine.prefix_pages import PrefixPages, num_prefix_pages
from cluster.engine.sampling.sample import NOTHING, sample
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.packing import can_pack, pack_linears

__all__ = ["ModelRunner", "num_pages_for"]


class ModelRunner:
    """``Runner`` over a loaded model, which it takes over: on CPU the weights are packed for speed, in place.

    One thread at a time; holds the KV pool for as long as it lives.

    Args:
        model: from ``cluster.model.loader.load_model``; its device and dtype are the runner's.
        num_pages: pages of the KV pool, the null page 0 included; see ``num_pages_for``.
        page_size: tokens per page.

    Raises:
        ConfigurationError: there are too few pages to hold anything, or the device cannot hold so many.
    """

    def __init__(self, model: ChatGLM3Model, *, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        if can_pack(model.dtype, model.device):
            pack_linears(model)
        self.model = model
        self.pool = allocate_pool(model, num_pages + num_prefix_pages(model.config.pre_seq_len, page_size), page_size)
        self._prefix = _take_prefix(model, self.pool)
        self._attention = attention_for(self.pool, unused=self.unused)

    @property
    def unused(self) -> int:
        """Places at the front of every row of the cache that hold nothing."""
        return self._prefix.unused if self._prefix else 0

    def placed(self, plan: StepPlan) -> StepPlan:
        """The plan with the model's prefix before each row, where it has one."""
        return self._prefix.before(plan) if self._prefix else plan

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        """See ``Runner.run``."""
        hidden = self.forward(plan)
        columns = plan.sampling
        if not columns.rows.size:
            return NOTHING
        last = self._upload(plan.cu_q[columns.rows + 1] - 1)
        return self.draw(self.logits(hidden.index_select(0, last)), columns)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the rows that draw: [S, H] -> [S, V]."""
        return self.model.logits(hidden)

    def draw(self, logits: Tensor, columns: SamplingColumns) -> StepResult:
        """One id of each row of ``logits`` [S, V]."""
        return sample(logits, columns)

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> Tensor:
        """Write the step's keys and values, attend, and return the hidden states [T, H] before the final norm."""
        self._attention.begin(self.placed(plan))
        hidden: Tensor = self.model(self._upload(plan.token_ids), self._upload(plan.positions), self._attention)
        return hidden

    def _upload(self, values: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(values).to(self.model.device, non_blocking=True)


def _take_prefix(model: ChatGLM3Model, pool: KVPool) -> PrefixPages | None:
    """Move the model's prefix into the pool; its encoder, which a projection makes large, is not needed again."""
    rows = model.prefix()
    if rows is None:
        return None
    del model.transformer.prefix_encoder
    return PrefixPages(pool, rows)
