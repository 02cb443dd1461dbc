"""An engine over the fake runner with everything watched: events, ids, pages and invariants after every step."""

from __future__ import annotations

from dataclasses import replace

from cluster.engine.client import StepOutput
from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.sequence import Sequence, SequenceState
from cluster.protocol import Finish, FinishReason, GenerateRequest, SamplingParams, Tokens
from tests.fakes.fake_clock import FakeClock
from tests.fakes.fake_runner import FakeRunner, expected_output

NAN_TOKEN = 60  # ids below 50 are drawn, so only a prompt can hold it
CONFIG = EngineConfig(
    model_id="fake", context_length=96, vocab_size=64, page_size=4, max_num_seqs=4, max_batched_tokens=12
)


def make_request(
    attempt: int,
    prompt_ids: list[int],
    *,
    output_ids: list[int] | None = None,
    tenant: str = "a",
    max_new_tokens: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    stop_ids: tuple[int, ...] = (),
    deadline_s: float | None = None,
    priority: int = 0,
    weight: float = 1.0,
    pin_key: str = "",
) -> GenerateRequest:
    """A request with the fields that matter to an engine."""
    sampling = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, stop_ids=stop_ids)
    return GenerateRequest(
        attempt=attempt,
        request_id=f"request-{attempt}",
        tenant=tenant,
        prompt_ids=prompt_ids,
        output_ids=output_ids or [],
        sampling=sampling,
        deadline_s=deadline_s,
        priority=priority,
        weight=weight,
        pin_key=pin_key,
    )


def _rank(seq: Sequence) -> tuple[int, int]:
    return seq.priority, seq.arrival


class EngineDriver:
    """Submits, steps and checks.

    Attributes:
        ids: per attempt all output ids of the answer, forced ones included.
        finishes: per ended attempt its last event.
    """

    def __init__(self, config: EngineConfig = CONFIG, *, num_pages: int = 40) -> None:
        self.runner = FakeRunner(num_pages=num_pages, page_size=config.page_size, nan_token=NAN_TOKEN)
        self.clock = FakeClock()
        self.engine = Engine(self.runner, replace(config, num_pages=num_pages), clock=self.clock)
        self.requests: dict[int, GenerateRequest] = {}
        self.ids: dict[int, list[int]] = {}
        self.finishes: dict[int, Finish] = {}

    @property
    def live(self) -> list[int]:
        """Attempts whose Finish was not seen."""
        return [attempt for attempt in self.requests if attempt not in self.finishes]

    @property
    def queued(self) -> list[int]:
        """Attempts in the queue's order."""
        return [seq.attempt for seq in self.engine.scheduler.waiting.ordered()]

    def submit(self, request: GenerateRequest) -> None:
        self.engine.submit(request)
        self.requests[request.attempt] = request
        self.ids[request.attempt] = list(request.output_ids)

    def step(self) -> list[StepOutput]:
        before = self.engine.scheduler.running.copy()
        outputs = self.engine.step()
        for attempt, event in outputs:
            self._take(attempt, event)
        self.check()
        ended = [self.requests[attempt] for attempt, event in outputs if isinstance(event, Finish)]
        self._check_preemptions(before, ended)
        return outputs

    def run(self, *requests: GenerateRequest) -> list[list[int]]:
        """Submit together, step to the end; the output ids of each."""
        for request in requests:
            self.submit(request)
        self.drain()
        return [self.ids[request.attempt] for request in requests]

    def drain(self, max_steps: int = 3000) -> None:
        """Step until nothing is left to do, which must come to pass."""
        for _ in range(max_steps):
            if not self.engine.has_work:
                break
            self.step()
        assert not self.engine.has_work, "the engine does not come to an end"
        assert self.live == []
        assert self.engine.stats().pages_active == 0

    def check(self) -> None:
        """Assert the invariants of pages, queue and batch, and that tenants share nothing."""
        assert self.runner.violations == []
        self.engine.scheduler.debug_check()
        tenant_of: dict[int, str] = {}
        for seq in self.engine.scheduler.running:
            tenant = self.requests[seq.attempt].tenant
            for page in seq.table.pages:
                assert tenant_of.setdefault(page, tenant) == tenant, "two tenants share a page"

    def _check_preemptions(self, before: list[Sequence], ended: list[GenerateRequest]) -> None:
        """Assert that who lost its place was not the first of the highest class, unless a higher one has come.

        That one may have ended in the step that it came in.
        """
        if not before:
            return
        spared = min(before, key=_rank)
        if spared.state is SequenceState.WAITING:
            has_come = any(_rank(other) < _rank(spared) for other in self.engine.scheduler.running)
            has_come |= any(request.priority < spared.priority for request in ended)
            assert has_come, "the oldest was preempted"
        for seq in before:
            if seq.state is SequenceState.WAITING:
                kept = [other for other in before if other.state is SequenceState.RUNNING]
                lower = [other for other in kept if other.priority > seq.priority and not other.num_preemptions]
                assert not lower, "a lower class kept its place"

    def _take(self, attempt: int, event: object) -> None:
        assert attempt not in self.finishes, "an event came after the last one"
        request, ids = self.requests[attempt], self.ids[attempt]
        if isinstance(event, Tokens):
            assert event.start == len(ids)
            assert (event.cached_tokens is not None) == (event.start == len(request.output_ids))
            ids.extend(event.ids)
            return
        assert isinstance(event, Finish)
        self.finishes[attempt] = event
        assert event.total == event.usage.output_tokens == len(ids)
        assert event.usage.prompt_tokens == len(request.prompt_ids)
        assert 0 <= event.usage.cached_tokens <= len(request.prompt_ids)
        self._check_ids(request, ids, event.reason)

    def _check_ids(self, request: GenerateRequest, ids: list[int], reason: FinishReason) -> None:
        expected = expected_output(request)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            assert ids == expected
            is_short = len(expected) < request.sampling.max_new_tokens
            assert reason is (FinishReason.STOP if is_short else FinishReason.LENGTH)
        else:
            assert ids == expected[: len(ids)]
