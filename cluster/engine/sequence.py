"""One sequence: an attempt's ids, how far their keys and values are computed, and the pages that hold them.

There is no prefill or decode state. A sequence knows its ids and how many are computed; whatever is missing is computed
next, and when nothing is missing a token is drawn. Ids forced by an earlier attempt are output ids like any other:
they count toward ``max_new_tokens`` and move the index of the next draw.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum, auto

from cluster.engine.block_manager import BlockTable
from cluster.engine.fairness import Account
from cluster.engine.guide import Guide, replay
from cluster.engine.randomness import uniform
from cluster.engine.sampling.bans import Bans
from cluster.engine.sampling.weights import Weights
from cluster.protocol import Finish, FinishReason, GenerateRequest, Logprobs, SamplingParams, Tokens, Usage


class SequenceState(Enum):
    """Where a sequence is. A preempted sequence waits again."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """One attempt inside the engine.

    Attributes:
        num_forced: output ids that an earlier attempt emitted.
        token_ids: prompt and output ids so far, int32; an array, so that slices become numpy and bytes for free.
        arrival: a smaller number came earlier.
        deadline_at: on the engine's clock, in seconds; infinity without a deadline.
        priority: class; smaller ones go first.
        keep_s: how long its pages are worth keeping when it has ended.
        account: its tenant's, set when it is queued.
        table: pages in order.
        num_computed: leading tokens whose keys and values are in the pages.
        num_scheduled: tokens the step under way computes.
        num_preemptions: times its pages were taken away.
        num_found: tokens whose keys and values were in the cache when it came into the batch.
        cached_tokens: prompt tokens found in the cache before the first preemption.
        guide: the structure of the answer, which has accepted all output ids; None for free text.
        weights: penalties and bias; None when there are none.
        bans: bad words and stop ids before their time; None when there are none.
        asks_more: whether it asks for more of sampling than temperature, top-p and top-k.
    """

    attempt: int
    arrival: int
    num_prompt: int
    num_forced: int
    token_ids: array[int]
    sampling: SamplingParams
    stop_ids: frozenset[int]
    deadline_at: float
    table: BlockTable
    state: SequenceState = SequenceState.WAITING
    num_computed: int = 0
    num_scheduled: int = 0
    num_preemptions: int = 0
    num_found: int = 0
    cached_tokens: int = 0
    priority: int = 0
    keep_s: float = 0.0
    guide: Guide | None = None
    account: Account = field(init=False)
    weights: Weights | None = field(init=False)
    bans: Bans | None = field(init=False)
    asks_more: bool = field(init=False)
    max_total: int = field(init=False)

    def __post_init__(self) -> None:
        sampling = self.sampling
        self.weights = Weights.of(sampling, self.num_prompt)
        self.bans = Bans.of(sampling, self.num_prompt)
        asks = (self.weights, self.bans, self.guide, sampling.logprobs, sampling.min_p or None)
        self.asks_more = any(what is not None for what in asks)
        self.max_total = self.num_prompt + sampling.max_new_tokens

    @classmethod
    def from_request(
        cls, request: GenerateRequest, *, arrival: int, now: float, table: BlockTable, guide: Guide | None = None
    ) -> Sequence:
        """A waiting sequence accepted at ``now`` (seconds on the engine's clock).

        Raises InvalidRequestError when the ids emitted so far do not fit ``guide``, which must be at its start.
        """
        if guide is not None:
            replay(guide, request.output_ids)
        return cls(
            attempt=request.attempt,
            arrival=arrival,
            num_prompt=len(request.prompt_ids),
            num_forced=len(request.output_ids),
            token_ids=array("i", request.prompt_ids + request.output_ids),
            sampling=request.sampling,
            stop_ids=frozenset(request.sampling.stop_ids),
            deadline_at=float("inf") if request.deadline_s is None else now + request.deadline_s,
            table=table,
            priority=request.priority,
            keep_s=request.keep_s,
            guide=guide,
        )

    @property
    def num_outputs(self) -> int:
        """Output ids of the whole answer so far, forced ones included; also the index of the next draw."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Tokens to compute before the next draw: 1 while decoding."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_complete(self) -> bool:
        """Whether ``max_new_tokens`` are there."""
        return len(self.token_ids) >= self.max_total

    @property
    def is_fresh(self) -> bool:
        """Whether nobody has seen anything of it: no id emitted, here or elsewhere, and nothing computed yet."""
        return not self.num_outputs and not self.num_preemptions

    @property
    def is_drawing(self) -> bool:
        """Whether the step under way ends with a draw."""
        return self.num_computed + self.num_scheduled == len(self.token_ids)

    def draw(self) -> float:
        """The uniform of the next output index."""
        return uniform(self.sampling.seed, len(self.token_ids) - self.num_prompt)

    def append(self, token_id: int, logprobs: Logprobs | None = None) -> Tokens:
        """Take a drawn id into the output; returns the event that emits it (the first one tells what was cached)."""
        start = self.num_outputs
        self.token_ids.append(token_id)
        is_first = start == self.num_forced
        return Tokens(
            start=start,
            ids=[token_id],
            cached_tokens=self.cached_tokens if is_first else None,
            logprobs=None if logprobs is None else [logprobs],
        )

    def skip_cached(self, num_tokens: int) -> int:
        """Count tokens found in the cache as computed; returns how many of them answer for the prompt's usage."""
        before, self.num_computed = self.num_computed, self.num_computed + num_tokens
        if self.num_preemptions:
            return 0
        fresh = min(self.num_computed, self.num_prompt) - min(before, self.num_prompt)
        self.cached_tokens += fresh
        return fresh

    def finish(self, reason: FinishReason, error: str = "") -> Finish:
        """The last event."""
        usage = Usage(prompt_tokens=self.num_prompt, cached_tokens=self.cached_tokens, output_tokens=self.num_outputs)
        return Finish(reason=reason, total=self.num_outputs, usage=usage, error=error)

    def debug_check(self, page_size: int) -> None:
        """Assert what holds between two steps for a sequence in the batch; for tests."""
        assert not self.num_scheduled, "a step's tokens were not taken"
        assert self.num_remaining > 0, "nothing is left to compute, but the sequence goes on"
        assert len(self.table.pages) == -(-self.num_computed // page_size), "pages and computed tokens differ"
        assert self.table.num_indexed == self.num_computed // page_size, "a full page is not indexed"
        held = b"".join(node.tokens for node in self.table.path)
        assert self.token_ids.tobytes().startswith(held), "a page holds the tokens of another prefix"
