"""A runner without a model that sees any paging mistake.

The "key and value" of a slot is (token, position, chain), where chain is a 64 bit hash of the whole prefix up to that
token, taken from the slot before it as the block table names it. In "attention" every row gathers its prefix through
its block table and checks position and chain of each slot: a page of another sequence, a page given to two, a page
reused too early or a slot never written break the chain. The drawn token is a pure function of the chain and the
row's sampling, so an answer must have the same ids however it was batched, chunked, cached, preempted or resumed;
``expected_output`` computes them without any cache. Weights of ids (penalties, bias) change the chain that is drawn
from; bans and masks take ids away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cluster.engine.plan import DrawnLogprobs, SamplingColumns, StepPlan, StepResult
from cluster.engine.randomness import uniform
from cluster.protocol import GenerateRequest, SamplingParams

Weighed = dict[int, tuple[float, float]]  # id: factor and offset

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
        ids, finite, exhausted = [], [], []
        for i, r in enumerate(sampling.rows.tolist()):
            chain = _weigh(int(self._chain[tables[r][-1]]), _weighed_of(sampling, i))
            allowed = _allowed_of(sampling, i, self.vocab_size)
            ids.append(_token(chain, float(sampling.temperature[i]), float(sampling.uniform[i]), allowed or [0]))
            finite.append(self._is_finite(tables[r]))
            exhausted.append(not allowed)
        return StepResult(
            token_ids=np.array(ids, dtype=np.int32),
            finite=np.array(finite, dtype=np.bool_),
            exhausted=None if sampling.adjustments is None else np.array(exhausted, dtype=np.bool_),
            logprobs=None if sampling.logprobs is None else _logprobs(sampling.logprobs, ids),
        )

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
        weighed = _weigh(chain, _weighed_after(sampling, request.prompt_ids, output))
        banned = _banned_after(sampling, request.prompt_ids, output)
        allowed = [token for token in range(vocab_size) if token not in banned]
        token = _token(weighed, sampling.temperature, uniform(sampling.seed, len(output)), allowed)
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


def _token(chain: int, temperature: float, draw: float, allowed: list[int]) -> int:
    fraction = (chain >> 11) * 2.0**-53
    return allowed[int((fraction + (draw if temperature else 0.0)) % 1.0 * len(allowed))]


def _weigh(chain: int, weighed: Weighed) -> int:
    """The chain as all weights that have an effect change it, each to three digits."""
    for token, (factor, offset) in sorted(weighed.items()):
        if (factor, offset) != (1.0, 0.0):
            for value in (token, round(factor * 1000), round(offset * 1000) & _MASK):
                chain = _mix(chain, value)
    return chain


def _weighed_of(sampling: SamplingColumns, i: int) -> Weighed:
    part = sampling.adjustments
    if part is None:
        return {}
    mine = part.weighed_rows == i
    numbers = zip(part.factors[mine].tolist(), part.offsets[mine].tolist(), strict=True)
    return dict(zip(part.weighed_ids[mine].tolist(), numbers, strict=True))


def _allowed_of(sampling: SamplingColumns, i: int, vocab_size: int) -> list[int]:
    part = sampling.adjustments
    if part is None:
        return list(range(vocab_size))
    banned = set(part.forbidden_ids[part.forbidden_rows == i].tolist())
    masks = part.allowed[part.guided_rows == i].astype(np.int64)
    return [
        token
        for token in range(vocab_size)
        if token not in banned and all(mask[token // 32] >> token % 32 & 1 for mask in masks)
    ]


def _weighed_after(sampling: SamplingParams, prompt: list[int], output: list[int]) -> Weighed:
    """The definition of penalties and bias."""
    counts, seen = Counter(output), {*prompt, *output}
    return {
        token: (
            sampling.repetition_penalty if token in seen else 1.0,
            sampling.logit_bias.get(token, 0.0)
            - sampling.presence_penalty * (counts[token] > 0)
            - sampling.frequency_penalty * counts[token],
        )
        for token in seen | set(sampling.logit_bias)
    }


def _banned_after(sampling: SamplingParams, prompt: list[int], output: list[int]) -> set[int]:
    ids = prompt + output
    words = [word for word in sampling.bad_words if ids[len(ids) - len(word) + 1 :] == list(word[:-1])]
    early = sampling.stop_ids if len(output) < sampling.min_new_tokens else ()
    return {*early, *(word[-1] for word in words if len(word) > 1 or word[0] not in sampling.stop_ids)}


def _logprobs(asked: np.ndarray, ids: list[int]) -> DrawnLogprobs:
    """Numbers from which a test can tell the row's id and how many it asked for."""
    rows = np.flatnonzero(asked >= 0)
    top = np.tile(np.arange(asked.max()), (len(rows), 1))
    return DrawnLogprobs(
        rows=rows.astype(np.int32),
        counts=asked[rows],
        drawn=np.array([-float(ids[row]) for row in rows], np.float32),
        top_ids=top.astype(np.int32),
        top=-top.astype(np.float32),
    )
