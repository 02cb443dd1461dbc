"""A runner without a model that sees any paging mistake.

The "key and value" of a slot is (token, position, chain), where chain is a 64 bit hash of the whole prefix up to that
token, taken from the slot before it as the block table names it. In "attention" every row gathers its prefix through
its block table and checks position and chain of each slot: a page of another sequence, a page given to two, a page
reused too early or a slot never written break the chain. The drawn token is a pure function of the chain and the
row's sampling, so an answer must have the same ids however it was batched, chunked, cached, preempted or resumed;
``expected_output`` computes them without any cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cluster.engine.plan import SamplingColumns, StepPlan, StepResult
from cluster.engine.randomness import uniform
from cluster.protocol import GenerateRequest

_MASK = (1 << 64) - 1
_MULTIPLIER = 0x9E37_79B9_7F4A_7C15
_EMPTY = 0x1234_5678_9ABC_DEF0  # the chain before the first token


class PagingError(AssertionError):
    """The plan does not describe the sequences it should."""


class FakeRunner:
    """See the module's docstring.

    Attributes:
        vocab_size: drawn ids lie below it.
        nan_token: a prompt that holds it gives non-finite logits.
        nan_pages: pages whose contents went bad; a row that sees one gives non-finite logits. Writing heals a page.
        failures: the next steps that raise RuntimeError instead of computing.
        violations: every paging mistake seen; the engine survives the exception, a test must look here.
        computed: tokens computed so far.
    """

    def __init__(self, *, num_pages: int = 64, page_size: int = 4, vocab_size: int = 50, nan_token: int = -1) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.vocab_size = vocab_size
        self.nan_token = nan_token
        self.nan_pages: set[int] = set()
        self.failures = 0
        self.violations: list[str] = []
        self.computed = 0
        self._token = np.full(num_pages * page_size, -1, dtype=np.int64)
        self._position = np.full(num_pages * page_size, -1, dtype=np.int64)
        self._chain = np.zeros(num_pages * page_size, dtype=np.uint64)

    def run(self, plan: StepPlan) -> StepResult:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the device is gone")
        self._check_shape(plan)
        tables = [self._slots(plan, r) for r in range(len(plan.kv_lens))]
        for r, slots in enumerate(tables):
            self._write(plan, r, slots)
        for slots in tables:
            self._attend(slots)
        self.computed += len(plan.token_ids)
        return self._draw(plan.sampling, tables)

    def _check_shape(self, plan: StepPlan) -> None:
        counts = np.diff(plan.cu_q)
        rows, tokens = len(plan.kv_lens), len(plan.token_ids)
        self._require(rows > 0 and plan.cu_q[0] == 0 and plan.cu_q[-1] == tokens, "cu_q does not cover the tokens")
        self._require((counts > 0).all(), "a row has no token")
        self._require((counts[: plan.num_decodes] == 1).all(), "a decode row has more than one token")
        self._require(len(plan.positions) == len(plan.slots) == tokens, "columns differ in length")
        self._require(plan.block_tables.shape[0] == rows, "a row has no block table")
        self._require(len(set(plan.slots.tolist())) == tokens, "two tokens are written to one slot")
        dtypes = [plan.token_ids, plan.positions, plan.cu_q, plan.kv_lens, plan.block_tables]
        self._require(all(column.dtype == np.int32 for column in dtypes), "a column is not int32")
        self._require(plan.slots.dtype == np.int64, "slots are not int64")
        written = (plan.slots // self.page_size).tolist()
        owner = np.repeat(np.arange(rows), counts)
        for r, page in zip(owner, written, strict=True):
            holders = np.flatnonzero((plan.block_tables == page).any(axis=1)).tolist()
            self._require(holders == [r], f"page {page} is written by a row while others hold it, or by a stranger")

    def _slots(self, plan: StepPlan, r: int) -> np.ndarray:
        """The slots of row ``r``'s whole prefix in order."""
        length = int(plan.kv_lens[r])
        used = -(-length // self.page_size)
        pages = plan.block_tables[r]
        self._require((pages[:used] > 0).all(), "the null page is inside a prefix")
        self._require((pages < self.num_pages).all(), "a page does not exist")
        self._require(not pages[used:].any(), "a block table is not padded with page 0")
        offsets = np.arange(length)
        return pages[offsets // self.page_size].astype(np.int64) * self.page_size + offsets % self.page_size

    def _write(self, plan: StepPlan, r: int, slots: np.ndarray) -> None:
        lo, hi = int(plan.cu_q[r]), int(plan.cu_q[r + 1])
        start = len(slots) - (hi - lo)
        expected = np.arange(start, len(slots))
        self._require((plan.positions[lo:hi] == expected).all(), "positions do not continue the prefix")
        self._require((plan.slots[lo:hi] == slots[start:]).all(), "slots and block table differ")
        chain = int(self._chain[slots[start - 1]]) if start else _EMPTY
        for slot, token in zip(slots[start:].tolist(), plan.token_ids[lo:hi].tolist(), strict=True):
            chain = _mix(chain, token)
            self._token[slot], self._chain[slot] = token, chain
        self._position[slots[start:]] = expected
        self.nan_pages -= {slot // self.page_size for slot in slots[start:].tolist() if slot % self.page_size == 0}

    def _attend(self, slots: np.ndarray) -> None:
        self._require((self._position[slots] == np.arange(len(slots))).all(), "a slot holds another position")
        before = np.concatenate(([np.uint64(_EMPTY)], self._chain[slots[:-1]]))
        expected = (before ^ self._token[slots].astype(np.uint64)) * np.uint64(_MULTIPLIER)
        expected ^= expected >> np.uint64(29)
        self._require((self._chain[slots] == expected).all(), "a slot holds the token of another prefix")

    def _draw(self, sampling: SamplingColumns, tables: list[np.ndarray]) -> StepResult:
        ids, finite = [], []
        for i, r in enumerate(sampling.rows.tolist()):
            chain = int(self._chain[tables[r][-1]])
            ids.append(_token(chain, float(sampling.temperature[i]), float(sampling.uniform[i]), self.vocab_size))
            finite.append(self._is_finite(tables[r]))
        return StepResult(token_ids=np.array(ids, dtype=np.int32), finite=np.array(finite, dtype=np.bool_))

    def _is_finite(self, slots: np.ndarray) -> bool:
        has_nan_page = not self.nan_pages.isdisjoint((slots // self.page_size).tolist())
        return not has_nan_page and not (self._token[slots] == self.nan_token).any()

    def _require(self, condition: object, message: str) -> None:
        if not condition:
            self.violations.append(message)
            raise PagingError(message)


def expected_output(request: GenerateRequest, vocab_size: int = 50) -> list[int]:
    """All output ids of a request, forced ones included, without paging or batching."""
    chain = _chain_of(request.prompt_ids + request.output_ids)
    sampling, output = request.sampling, list(request.output_ids)
    while len(output) < sampling.max_new_tokens:
        token = _token(chain, sampling.temperature, uniform(sampling.seed, len(output)), vocab_size)
        if token in sampling.stop_ids:
            break
        output.append(token)
        chain = _mix(chain, token)
    return output


def _chain_of(tokens: Sequence[int]) -> int:
    chain = _EMPTY
    for token in tokens:
        chain = _mix(chain, token)
    return chain


def _mix(chain: int, token: int) -> int:
    mixed = ((chain ^ token) * _MULTIPLIER) & _MASK
    return mixed ^ (mixed >> 29)


def _token(chain: int, temperature: float, draw: float, vocab_size: int) -> int:
    fraction = (chain >> 11) * 2.0**-53
    return int((fraction + (draw if temperature else 0.0)) % 1.0 * vocab_size)
