"""``Runner`` over the C step: the whole of a step but the drawing, in one call without the interpreter's lock.

Scores come out in float32, unrounded. Numbers differ from the torch runner's in the last bits of bfloat16: there every
operation rounds, here only what a product takes.
"""

from __future__ import annotations

import weakref
from ctypes import byref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.engine import huge_pages
from cluster.engine.attention.kv_pool import allocate_pool
from cluster.engine.native import library
from cluster.engine.native.spans import spans
from cluster.engine.native.weights import MAX_QUERIES, Weights, fits
from cluster.engine.plan import StepPlan, StepResult
from cluster.engine.sampling.sample import NOTHING, Scan, sample, sample_one_by_one
from cluster.errors import ConfigurationError
from cluster.model.chatglm import ChatGLM3Model


def can_run(model: ChatGLM3Model) -> bool:
    """Whether the C step computes this model here."""
    is_plain = model.dtype is torch.bfloat16 and model.device.type == "cpu" and fits(model)
    return is_plain and library.load() is not None


class NativeRunner:
    """``Runner`` for bfloat16 on the CPU; takes the model over, whose linears are empty afterwards.

    One thread calls it at a time. Budget: what the step's products take from the memory or the arithmetic, plus 30 µs
    and 1 µs per row (``tests/benchmarks/bench_runner.py``).

    Args:
        model: for which ``can_run`` holds.
        num_pages: pages of the KV pool, the null page 0 included.
        page_size: tokens per page.
        threads: that compute, the calling one included.
        is_deterministic: whether rows are drawn from one by one too. Scores are equal to the last bit in any case,
            whatever else is in a step, however a prompt is cut and however many threads there are.

    Raises:
        ConfigurationError: there are too few pages to hold anything, or the system does not give the memory or threads.
    """

    def __init__(
        self, model: ChatGLM3Model, *, num_pages: int, page_size: int, threads: int, is_deterministic: bool = False
    ) -> None:
        functions = library.load()
        assert functions is not None, "nobody asked can_run"
        self.num_pages, self.page_size = num_pages, page_size
        self._config = model.config
        self._draw = sample_one_by_one if is_deterministic else sample
        self._weights = Weights(model, allocate_pool(model, num_pages, page_size))
        self._step = functions.chatglm_step
        self._crew = functions.chatglm_begin(threads)
        if not self._crew:
            raise ConfigurationError(f"The system gives no {threads} threads to compute with; ask for fewer.")
        weakref.finalize(self, functions.chatglm_end, self._crew)
        self._span_tokens = max(1, MAX_QUERIES * self._config.multi_query_group_num // self._config.num_attention_heads)
        self._tokens = _TokenBuffers.of(0, self._weights)
        self._scores = torch.empty(0, self._config.padded_vocab_size)

    def run(self, plan: StepPlan) -> StepResult:
        """See ``Runner.run``."""
        columns = plan.sampling
        scan = Scan.empty(len(columns.rows))
        scores = self.scores(plan, scan)
        return self._draw(scores, columns, scan) if columns.rows.size else NOTHING

    def scores(self, plan: StepPlan, scan: Scan) -> Tensor:
        """Write the step's keys and values and attend. Returns float32 [S, V] of the rows that draw, until the next."""
        rows = plan.sampling.rows
        tokens = self._room_for(len(plan.token_ids), len(rows))
        parts = spans(plan, self._span_tokens)
        drawn = np.ascontiguousarray(plan.cu_q[rows + 1] - 1)
        tables = np.ascontiguousarray(plan.block_tables)
        struct = library.Plan(
            num_tokens=len(plan.token_ids),
            num_rows=len(plan.kv_lens),
            num_drawn=len(rows),
            num_spans=len(parts.rows),
            table_width=tables.shape[1],
            token_ids=_address(plan.token_ids, np.int32),
            positions=_address(plan.positions, np.int32),
            tables=_address(tables, np.int32),
            slots=_address(plan.slots, np.int64),
            drawn=_address(drawn, np.int32),
            span_rows=_address(parts.rows, np.int32),
            span_tokens=_address(parts.tokens, np.int32),
            span_sizes=_address(parts.sizes, np.int32),
            span_lengths=_address(parts.lengths, np.int32),
            scores=self._scores.data_ptr(),
            best=_address(scan.best, np.int32),
            is_finite=_address(scan.is_finite, np.bool_),
            **tokens.addresses,
        )
        if self._step(self._crew, byref(self._weights.struct), byref(struct)):
            raise MemoryError("The system gives no memory for a step's bookkeeping.")
        return self._scores[: len(rows)]

    def _room_for(self, num_tokens: int, num_drawn: int) -> _TokenBuffers:
        """Buffers that hold so many; kept, because fresh memory costs more than what is written to it."""
        if num_tokens > self._tokens.size:
            self._tokens = _TokenBuffers.of(num_tokens, self._weights)
        if num_drawn > len(self._scores):
            self._scores = huge_pages.zeros(num_drawn, self._config.padded_vocab_size, dtype=torch.float32)
        return self._tokens


def _address(values: NDArray[Any], dtype: type[np.generic]) -> int:
    assert values.dtype == dtype, "C reads what it was told"
    assert values.flags.c_contiguous, "C reads one after another"
    return values.ctypes.data


class _TokenBuffers:
    """What a step writes per token, for up to ``size`` tokens; owns the memory."""

    def __init__(self, size: int, widths: dict[str, tuple[int, torch.dtype]]) -> None:
        self.size = size
        self._tensors = {name: huge_pages.zeros(size, width, dtype=dtype) for name, (width, dtype) in widths.items()}
        self.addresses = {name: tensor.data_ptr() for name, tensor in self._tensors.items()}

    @classmethod
    def of(cls, size: int, weights: Weights) -> _TokenBuffers:
        """For the model behind ``weights``."""
        shape = weights.struct
        heads, keys = shape.heads * shape.dim, 2 * shape.groups * shape.dim
        return cls(
            size,
            {
                "x": (shape.hidden, torch.float32),
                "qkv": (heads + keys, torch.float32),
                "normed": (shape.hidden, torch.bfloat16),
                "query": (heads, torch.bfloat16),
                "context": (heads, torch.bfloat16),
                "gated": (shape.inner, torch.bfloat16),
            },
        )
