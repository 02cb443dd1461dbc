"""The engine: a scheduler, a runner, and one step that joins them.

A step that the runner cannot compute ends its own sequences and no others; whether the runner can go on is the
runner's to say, by raising again. Everything here runs in one thread; ``ThreadedEngine`` is the way in from elsewhere.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable

import structlog

from cluster.engine.batch import Batch
from cluster.engine.client import EngineStats, StepOutput
from cluster.engine.config import EngineConfig
from cluster.engine.guide import Guide
from cluster.engine.plan import Runner, StepResult
from cluster.engine.scheduler import Scheduler
from cluster.engine.step_pace import StepWatch
from cluster.engine.tenant_use import TenantUse
from cluster.errors import ConfigurationError
from cluster.protocol import Forgotten, GenerateRequest, Label

STEP_FAILED = "step_failed"
TENANTS_EVERY_S = 1.0  # how often a busy engine gathers the figures of its tenants

log = structlog.get_logger(__name__)


class Engine:
    """Continuous batching over one runner. Not thread-safe.

    Attributes:
        failures_in_a_row: steps that raised since the last one that did not; a runner that is gone keeps counting.
        watch: told of every step, for those who look on from other threads.
    """

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        watch: StepWatch | None = None,
    ) -> None:
        """Raises ConfigurationError when ``config`` and the runner's pool differ."""
        _check_pool(runner, config)
        self.runner = runner
        self.config = config
        self.scheduler = Scheduler(config, runner.num_pages)
        self.failures_in_a_row = 0
        self.watch = watch or StepWatch(clock)
        self._clock = clock
        self._tenants: dict[str, TenantUse] = {}
        self._tenants_at = -math.inf

    @property
    def has_work(self) -> bool:
        """Whether ``step`` would compute or report something."""
        return self.scheduler.has_work

    @property
    def attempts(self) -> list[int]:
        """The attempts that have not ended."""
        return self.scheduler.attempts

    def submit(self, request: GenerateRequest, guide: Guide | None = None) -> None:
        """Queue a request, its answer held to ``guide`` (at its start).

        Raises what ``Scheduler.add`` raises, before anything is computed.
        """
        self.scheduler.add(request, self._clock(), guide)

    def abort(self, attempt: int) -> None:
        """End an attempt now; its Finish comes with the next step. Unknown attempts are ignored."""
        self.scheduler.abort(attempt)

    def forget(self, label: Label) -> Forgotten:
        """Free the pages of a label now, those that a sequence holds when it ends."""
        return self.scheduler.forget(label)

    def step(self) -> list[StepOutput]:
        """Schedule, run, take the result. Returns all events since the last step, at most one token per attempt."""
        now = self._clock()
        self.watch.begin(now)
        batch = self.scheduler.schedule(now)
        if batch is not None:
            self.watch.expect(len(batch.plan.token_ids))
            result = self._run(batch)
            now = self._clock()
            if result is None:
                self.scheduler.fail(batch, STEP_FAILED, now)
            else:
                self.scheduler.update(batch, result, now)
        self.watch.end(now, is_measure=not self.failures_in_a_row)
        return self.scheduler.take_outputs()

    def abandon(self, error: str) -> list[StepOutput]:
        """The last events of every attempt, moved for ``error``; the engine must not be used afterwards."""
        return self.scheduler.abandon(error)

    def _run(self, batch: Batch) -> StepResult | None:
        try:
            result = self.runner.run(batch.plan)
        except Exception:  # noqa: BLE001 -- whatever a device raises ends this step's sequences, not the engine
            self.failures_in_a_row += 1
            # Formatted here: exception() may be configured to render local variables, and those hold prompts.
            log.error("engine.step_failed", in_a_row=self.failures_in_a_row, traceback=traceback.format_exc())  # noqa: TRY400
            return None
        self.failures_in_a_row = 0
        return result

    def stats(self) -> EngineStats:
        """Counters and levels of now."""
        scheduler, blocks, counters = self.scheduler, self.scheduler.blocks, self.scheduler.counters
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            waiting_tokens=scheduler.tokens_to_compute,
            prefill_rate=scheduler.admission.pace.prefill_rate or 0.0,
            computed_share=scheduler.admission.pace.computed_share,
            pages_total=blocks.num_pages - 1,
            pages_active=blocks.num_active,
            pages_cached=blocks.num_cached,
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=scheduler.planner.cached_tokens,
            output_tokens=counters.output_tokens,
            steps=counters.steps,
            preemptions=scheduler.planner.preemptions,
            evicted_pages=blocks.evicted_pages,
            tenants=self._tenant_use(),
        )

    def _tenant_use(self) -> dict[str, TenantUse]:
        """Figures at most a second old; those of an engine without work, which may sleep for long, are of now."""
        now = self._clock()
        if now - self._tenants_at >= TENANTS_EVERY_S or not self.has_work:
            self._tenants, self._tenants_at = self.scheduler.blocks.tenant_use(), now
        return self._tenants


def _check_pool(runner: Runner, config: EngineConfig) -> None:
    if runner.page_size != config.page_size:
        raise ConfigurationError(f"page_size is {config.page_size}, but the runner's pages hold {runner.page_size}.")
    if config.num_pages is not None and config.num_pages != runner.num_pages:
        raise ConfigurationError(f"num_pages is {config.num_pages}, but the runner's pool has {runner.num_pages}.")
    if runner.num_pages < 2:
        raise ConfigurationError("The runner's pool has no page besides the null page.")
