"""Runs answers together and alone over one model, keeps the logits of every draw, and says what may differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.engine.batch import Batch
from cluster.engine.client import EngineStats
from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.native.runner import NativeRunner
from cluster.engine.plan import StepPlan, StepResult
from cluster.engine.runner import ModelRunner
from cluster.protocol import Finish, FinishReason, GenerateRequest, Logprobs, SamplingParams, Tokens
from tests.fakes.fake_clock import FakeClock
from tests.support.random_model import SHAPE

PAGE_SIZE = 4
POOL_PAGES = 160
NEAR_LOGITS = 1e-4  # of the two best; also what the logits of equal prefixes may differ by
NEAR_UNIFORM = 1e-5  # of a draw to an edge of the distribution function

Bug = Callable[[StepPlan], StepPlan]


@dataclass(frozen=True)
class Ask:
    """A request. ``wait`` counts the engine's steps before it comes; ``forced`` ids of the answer came from elsewhere."""

    prompt: tuple[int, ...]
    outputs: int = 8
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    wait: int = 0
    forced: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def num_pages(self) -> int:
        """Pages that the whole of it takes."""
        return -(-(len(self.prompt) + self.outputs) // PAGE_SIZE)

    def request(self, attempt: int) -> GenerateRequest:
        """As an engine wants it."""
        sampling = SamplingParams(
            max_new_tokens=self.outputs,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            logprobs=self.logprobs,
        )
        return GenerateRequest(
            attempt=attempt,
            request_id=str(attempt),
            tenant="a",
            prompt_ids=list(self.prompt),
            output_ids=list(self.forced),
            sampling=sampling,
        )


@dataclass(frozen=True)
class Drawn:
    """One drawn id, with the logits [V] and the uniform it was drawn by."""

    token_id: int
    logits: Tensor
    uniform: float


@dataclass
class Outcome:
    """What the engine did: for each ask its draws and what it told of them, and the counters at the end."""

    draws: list[list[Drawn]]
    logprobs: list[list[Logprobs]]
    stats: EngineStats
    chunks: int = 0  # steps in which a row computed several tokens and did not draw


class Lab:
    """One runner over one pool, whose pages are never cleared, and an engine with an empty cache for every run."""

    def __init__(self, runner: ModelRunner | NativeRunner) -> None:
        self.runner = runner
        self._seen: list[Tensor] = []
        self._alone: dict[Ask, list[Drawn]] = {}
        name = "scores" if isinstance(runner, NativeRunner) else "logits"
        original = getattr(runner, name)

        def tapped(*args: Any) -> Tensor:
            logits = original(*args)
            self._seen = list(logits.float().clone())  # sampling may write over what it is given
            return logits

        setattr(runner, name, tapped)

    def alone(self, ask: Ask) -> list[Drawn]:
        """The draws of an ask with nobody beside it, its prompt in one step."""
        key = Ask(ask.prompt, ask.outputs, ask.temperature, ask.top_k, ask.top_p, ask.seed)
        if key not in self._alone:
            self._alone[key] = self.together([key], budget=SHAPE.seq_length, num_pages=POOL_PAGES).draws[0]
        return self._alone[key]

    def together(self, asks: Sequence[Ask], *, budget: int, num_pages: int, bug: Bug | None = None) -> Outcome:
        """Run asks in one engine of ``num_pages`` pages with ``budget`` tokens in a step; ``bug`` spoils every plan."""
        engine = _RecordingEngine(_Part(self.runner, num_pages, bug), budget, lambda: self._seen)
        waiting = sorted(enumerate(asks), key=lambda item: item[1].wait)
        ids = {attempt: list(ask.forced) for attempt, ask in enumerate(asks)}
        told: list[list[Logprobs]] = [[] for _ in asks]
        steps = 0
        while waiting or engine.has_work:
            while waiting and (waiting[0][1].wait <= steps or not engine.has_work):
                attempt, ask = waiting.pop(0)
                engine.submit(ask.request(attempt))
            for attempt, event in engine.step():
                if isinstance(event, Tokens):
                    ids[attempt] += event.ids
                    told[attempt] += event.logprobs or []
                if isinstance(event, Finish):
                    assert event.reason is FinishReason.LENGTH, event.error
            steps += 1
            assert steps < 3000, "the engine does not come to an end"
        draws = [engine.draws.get(attempt, []) for attempt in range(len(asks))]
        for attempt, ask in enumerate(asks):
            assert ids[attempt] == [*ask.forced, *(drawn.token_id for drawn in draws[attempt])]
        return Outcome(draws, told, engine.stats(), engine.chunks)


@dataclass
class _Part:
    """A ``Runner`` over the first pages of another one's pool."""

    runner: ModelRunner | NativeRunner
    num_pages: int
    bug: Bug | None
    page_size: int = PAGE_SIZE

    def run(self, plan: StepPlan) -> StepResult:
        return self.runner.run(self.bug(plan) if self.bug else plan)


class _RecordingEngine(Engine):
    def __init__(self, runner: _Part, budget: int, seen: Callable[[], list[Tensor]]) -> None:
        config = EngineConfig(
            model_id="random",
            context_length=SHAPE.seq_length,
            vocab_size=SHAPE.padded_vocab_size,
            page_size=PAGE_SIZE,
            num_pages=runner.num_pages,
            max_num_seqs=4,
            max_batched_tokens=budget,
            max_wait_s=float("inf"),
        )
        super().__init__(runner, config, clock=FakeClock())
        self.draws: dict[int, list[Drawn]] = {}
        self.chunks = 0
        self._seen = seen

    def _run(self, batch: Batch) -> StepResult | None:
        result = super()._run(batch)
        assert result is not None, "a step failed"
        self.chunks += len(batch.drawing) < len(batch.rows)
        drawn = zip(batch.drawing, result.token_ids.tolist(), batch.plan.sampling.uniform.tolist(), strict=True)
        for row, (seq, token_id, uniform) in enumerate(drawn):
            self.draws.setdefault(seq.attempt, []).append(Drawn(token_id, self._seen()[row], uniform))
        return result


@dataclass
class Tally:
    """How many answers were compared, and how many of them went apart at a near-tie."""

    answers: int = 0
    draws: int = 0
    near_ties: int = 0
    largest: float = field(default=0.0)  # difference of two logits


def assert_same(expected: list[Drawn], actual: list[Drawn]) -> None:
    """Equal to the last bit: ids, and the logits of every draw."""
    assert [drawn.token_id for drawn in actual] == [drawn.token_id for drawn in expected]
    for one, other in zip(expected, actual, strict=True):
        assert torch.equal(one.logits, other.logits)


def assert_alike(ask: Ask, expected: list[Drawn], actual: list[Drawn], tally: Tally | None = None) -> None:
    """Equal ids, but for what follows a near-tie, and nearly equal logits wherever the ids before were equal."""
    tally = tally or Tally()
    tally.answers += 1
    assert len(actual) == len(expected)
    for one, other in zip(expected, actual, strict=True):
        difference = float((one.logits - other.logits).abs().max())
        assert difference <= NEAR_LOGITS
        tally.draws += 1
        tally.largest = max(tally.largest, difference)
        if one.token_id != other.token_id:
            assert is_near_tie(ask, one)
            tally.near_ties += 1
            return


def is_near_tie(ask: Ask, drawn: Drawn) -> bool:
    """Whether the last bits of the logits decide: the two best are as good as equal, or the uniform is at an edge."""
    scores = drawn.logits.double().numpy()
    if not ask.temperature:
        second, best = np.sort(scores)[-2:]
        return bool(best - second <= NEAR_LOGITS)
    weights = np.exp((scores - scores.max()) / ask.temperature)
    order = np.argsort(-scores, kind="stable")
    if ask.top_k:
        weights[scores < scores[order[ask.top_k - 1]]] = 0
    shares = weights[order] / weights.sum()
    weights[order[np.cumsum(shares) - shares >= ask.top_p]] = 0
    edges = np.cumsum(weights) / weights.sum()
    return bool(np.abs(edges - drawn.uniform).min() <= NEAR_UNIFORM)
