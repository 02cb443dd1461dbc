"""An engine in simulated time: requests arrive at given moments, each step takes what its tokens cost."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.plan import StepPlan, StepResult
from cluster.errors import OverloadedError
from tests.fakes.engine_driver import make_request
from tests.fakes.fake_clock import FakeClock

CONFIG = EngineConfig(
    model_id="fake",
    context_length=8192,
    vocab_size=1 << 20,
    max_num_seqs=8,
    max_batched_tokens=64,
    max_waiting=1 << 16,
    max_wait_s=math.inf,
)


class TimedRunner:
    """Draws token 1; a step takes ``step_s`` and ``token_s`` for each of its tokens on the clock.

    Attributes:
        late: a moment, and how many seconds longer the first step from then on takes.
    """

    page_size = 16

    def __init__(self, clock: FakeClock, num_pages: int, *, step_s: float = 0.02, token_s: float = 0.001) -> None:
        self.num_pages = num_pages
        self.late = (math.inf, 0.0)
        self._clock = clock
        self._step_s, self._token_s = step_s, token_s

    def run(self, plan: StepPlan) -> StepResult:
        self._clock.now += self._step_s + self._token_s * len(plan.token_ids)
        if self._clock.now >= self.late[0]:
            self._clock.now += self.late[1]
            self.late = (math.inf, 0.0)
        rows = len(plan.sampling.rows)
        return StepResult(token_ids=np.ones(rows, dtype=np.int32), finite=np.ones(rows, dtype=np.bool_))


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, its prompt, how many ids it draws, and how many were drawn elsewhere."""

    at_s: float
    prompt_ids: list[int]
    output: int
    forced: int = 0


@dataclass
class Wait:
    """What became of an arrival. Refused ones have a retry time and were never admitted."""

    arrival: Arrival
    predicted_s: float
    accepted_at: float
    admitted_at: float = math.nan
    retry_after_s: float | None = None

    @property
    def actual_s(self) -> float:
        return self.admitted_at - self.accepted_at


class QueueSimulation:
    """Runs arrivals (in order of time) through an engine; ``waits`` has one entry each."""

    def __init__(self, *, num_pages: int = 4000, config: EngineConfig = CONFIG, **changes: float) -> None:
        self.clock = FakeClock(0.0)
        self.runner = TimedRunner(self.clock, num_pages)
        self.engine = Engine(self.runner, replace(config, **changes), clock=self.clock)
        self.waits: list[Wait] = []

    def run(self, arrivals: Iterable[Arrival]) -> list[Wait]:
        """Let all arrive and end; the waits of this run."""
        first = len(self.waits)
        for arrival in arrivals:
            self.step_until(arrival.at_s)
            self.arrive(arrival)
        self.step_until(math.inf)
        return self.waits[first:]

    def arrive(self, arrival: Arrival) -> Wait:
        """Submit now, whatever the arrival says; the wait so far."""
        scheduler = self.engine.scheduler
        request = make_request(
            len(self.waits), arrival.prompt_ids, output_ids=[1] * arrival.forced, max_new_tokens=arrival.output
        )
        accounts = scheduler.planner.accounts
        predicted_s = scheduler.admission.wait_s(request, scheduler.running, scheduler.waiting, accounts)
        wait = Wait(arrival, predicted_s, self.clock.now)
        self.waits.append(wait)
        try:
            self.engine.submit(request)
        except OverloadedError as error:
            wait.retry_after_s = error.retry_after_s
        return wait

    def step_until(self, at_s: float) -> None:
        """Let time pass to ``at_s``, or, when that is infinity, until all work is done."""
        while self.clock.now < at_s and self.engine.has_work:
            began = self.clock.now
            self.engine.step()
            for seq in self.engine.scheduler.running:
                wait = self.waits[seq.attempt]
                if math.isnan(wait.admitted_at):
                    wait.admitted_at = began
        if at_s < math.inf:
            self.clock.now = max(self.clock.now, at_s)


def poisson(
    rng: random.Random,
    *,
    rate: float,
    seconds: float,
    prompt: tuple[int, int],
    output: tuple[int, int],
    start_s: float = 0.0,
    shared: float = 0.0,
) -> Iterator[Arrival]:
    """Independent arrivals, ``rate`` a second; lengths uniform in their ranges, ``shared`` of each prompt alike."""
    at_s = start_s
    while (at_s := at_s + rng.expovariate(rate)) < start_s + seconds:
        length = rng.randint(*prompt)
        own = [rng.randrange(1, CONFIG.vocab_size) for _ in range(length - int(length * shared))]
        yield Arrival(at_s, [0] * (length - len(own)) + own, rng.randint(*output))
