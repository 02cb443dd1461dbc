"""The deterministic mode: a token's numbers depend on the tokens before it and on nothing else, to the last bit.

How a kernel sums depends on the shape it is called with, so batched, chunked, cached and preempted runs differ in their
last bits by default. Here every product of the model and of its attention has one shape: steps are cut into tiles of a
fixed number of tokens, and rows are drawn from one by one. A fixed shape alone is not enough: a kernel may treat rows
of one call differently, as torch's elementwise loops do on a CPU where a thread's share ends inside a row (the rest of
it is computed by scalar code, whose exponential differs). So the loops get one thread where they could be cut that way,
and the promise is checked with the model itself when the runner is made; were it broken, tiles would hold one token.

Equal bits are promised for equal weights, dtype, page size, torch and kind of processor, and on CPU for the same number
of threads (float32 and bfloat16 had the same bits with one to four where it was tried). On CUDA nothing was tried yet.

Where the C step computes (``cluster.engine.native``), its bits are equal anyway and this runner is not needed.

The price, measured on one CPU core with 8 layers of width 512: 2 to 4 times the time of the default mode in bfloat16
(one decoding row 3.4, 8 rows 2.4, 32 rows 2.1, a prompt of 512 tokens 4.0) and 1.8 to 3 times in float32.
"""

from __future__ import annotations

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.engine.attention.kv_pool import KVPool
from cluster.engine.attention.tiled import TiledAttention
from cluster.engine.plan import SamplingColumns, StepPlan, StepResult
from cluster.engine.runner import ModelRunner
from cluster.engine.sampling.sample import sample_one_by_one
from cluster.engine.threads import num_threads
from cluster.engine.tiles import Tile, tiles_of
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.packing import PackedLinear
from cluster.model.quantization import QuantizedLinear
from cluster.model.quantized_kernels import Int4KernelLinear

TILE_TOKENS = (
    16  # few enough that one decode costs little more than alone, where reading the weights is what takes time
)

# Up to two threads share a tile of an even number of rows at the border between two rows.
_THREADS_THAT_KEEP_ROWS_WHOLE = 2
_PROBES = 4

_LINEARS = (nn.Linear, PackedLinear, QuantizedLinear, Int4KernelLinear)

log = structlog.get_logger(__name__)


class DeterministicRunner(ModelRunner):
    """``ModelRunner`` whose results do not depend on how a sequence was computed.

    Attributes:
        tile_tokens: tokens of each pass through the model.
    """

    def __init__(self, model: ChatGLM3Model, *, num_pages: int, page_size: int) -> None:
        super().__init__(model, num_pages=num_pages, page_size=page_size)
        threads = torch.get_num_threads()
        self._loop_threads = threads
        if model.device.type == "cpu" and threads > _THREADS_THAT_KEEP_ROWS_WHOLE:
            self._loop_threads = 1
            _widen_linears(model, threads)
        self._tiled = TiledAttention(self.pool, unused=self.unused)
        with num_threads(self._loop_threads):
            is_position_free = treats_rows_alike(model, page_size, TILE_TOKENS)
        self.tile_tokens = TILE_TOKENS if is_position_free else 1
        log.info("runner.deterministic", tile_tokens=self.tile_tokens, loop_threads=self._loop_threads)

    def run(self, plan: StepPlan) -> StepResult:
        """See ``Runner.run``."""
        with num_threads(self._loop_threads):
            return super().run(plan)

    @torch.inference_mode()
    def forward(self, plan: StepPlan) -> Tensor:
        """See ``ModelRunner.forward``; one tile after another."""
        tiles = tiles_of(self.placed(plan), self.tile_tokens)
        return torch.cat([_forward(self.model, tile, self._tiled)[: tile.count] for tile in tiles])

    def logits(self, hidden: Tensor) -> Tensor:
        """See ``ModelRunner.logits``."""
        return torch.cat([self._tile_logits(part) for part in torch.split(hidden, self.tile_tokens)])

    def draw(self, logits: Tensor, columns: SamplingColumns) -> StepResult:
        """See ``ModelRunner.draw``."""
        return sample_one_by_one(logits, columns)

    def _tile_logits(self, hidden: Tensor) -> Tensor:
        padded = hidden.new_zeros(self.tile_tokens, hidden.shape[1])
        padded[: len(hidden)] = hidden
        return self.model.logits(padded)[: len(hidden)]


@torch.inference_mode()
def treats_rows_alike(model: ChatGLM3Model, page_size: int, tile_tokens: int) -> bool:
    """Whether this machine computes a token to the same bits wherever in a tile it stands, tried on random tokens."""
    pool = KVPool(model.config, num_pages=tile_tokens + 1, page_size=page_size, dtype=model.dtype, device=model.device)
    source = np.random.default_rng(0)
    tile = _random_tile(source, tile_tokens, page_size, model.config.padded_vocab_size)
    expected = _probe(model, pool, tile)
    for _ in range(_PROBES):
        order = source.permutation(tile_tokens)
        if not torch.equal(expected[torch.from_numpy(order)], _probe(model, pool, _reordered(tile, order))):
            return False
    return True


def _probe(model: ChatGLM3Model, pool: KVPool, tile: Tile) -> Tensor:
    """The bits of a tile's logits, as NaN too must stay where it is."""
    pool.pages.copy_(torch.linspace(-1, 1, pool.pages.numel()).view_as(pool.pages))
    logits = model.logits(_forward(model, tile, TiledAttention(pool)))
    return logits.cpu().contiguous().view(torch.int16)


def _random_tile(source: np.random.Generator, size: int, page_size: int, vocab_size: int) -> Tile:
    """Tokens of as many sequences, each with a page of its own."""
    lengths = source.integers(1, page_size, size, endpoint=True).astype(np.int32)
    pages = np.arange(1, size + 1, dtype=np.int32)
    return Tile(
        token_ids=source.integers(0, vocab_size, size).astype(np.int32),
        positions=lengths - 1,
        lengths=lengths,
        block_tables=pages[:, None],
        slots=pages.astype(np.int64) * page_size + lengths - 1,
    )


def _reordered(tile: Tile, order: NDArray[np.int64]) -> Tile:
    return Tile(
        tile.token_ids[order], tile.positions[order], tile.lengths[order], tile.block_tables[order], tile.slots[order]
    )


def _forward(model: ChatGLM3Model, tile: Tile, attention: TiledAttention) -> Tensor:
    """The last block's output of a tile [M, H]."""
    attention.begin(tile)
    token_ids, positions = (torch.from_numpy(values).to(model.device) for values in (tile.token_ids, tile.positions))
    hidden: Tensor = model(token_ids, positions, attention)
    return hidden


class _WideLinear(nn.Module):
    """A linear that is computed by ``threads`` threads whatever is set around it."""

    def __init__(self, linear: nn.Module, threads: int) -> None:
        super().__init__()
        self._linear = linear
        self._num_threads = threads

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]."""
        with num_threads(self._num_threads):
            y: Tensor = self._linear(x)
            return y


def _widen_linears(module: nn.Module, threads: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, _LINEARS):
            setattr(module, name, _WideLinear(child, threads))
        else:
            _widen_linears(child, threads)
