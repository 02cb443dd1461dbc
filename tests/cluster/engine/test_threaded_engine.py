"""An engine in a thread: events on the caller's loop, errors where they belong, an orderly end."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.client import StepOutput
from cluster.engine.plan import StepPlan, StepResult
from cluster.errors import (
    CheckpointError,
    ConfigurationError,
    ContextLengthExceededError,
    NoReplicaError,
    OverloadedError,
)
from cluster.protocol import Finish, FinishReason, GenerateRequest, Tokens
from tests.fakes.engine_driver import CONFIG, make_request
from tests.fakes.fake_runner import FakeRunner, expected_output


class GatedRunner(FakeRunner):
    """Computes as many steps as it was allowed, then holds the engine's thread inside ``run``."""

    def __init__(self) -> None:
        super().__init__()
        self._allowed = 0.0
        self._is_held = False
        self._changed = threading.Condition()

    def allow(self, steps: float) -> None:
        """Let that many more steps pass."""
        with self._changed:
            self._allowed += steps
            self._changed.notify_all()

    async def held(self) -> None:
        """Wait until a step is held."""

        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(lambda: self._is_held and not self._allowed, timeout=30)

        await asyncio.to_thread(wait)

    def run(self, plan: StepPlan) -> StepResult:
        with self._changed:
            self._is_held = True
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._allowed > 0, timeout=30)
            self._is_held = False
            self._allowed -= 1
        return super().run(plan)


class Listener:
    """A sink that keeps what came and lets a test wait for it."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.finishes: dict[int, Finish] = {}
        self.threads: set[int] = set()
        self.calls = 0
        self._changed = asyncio.Event()

    def __call__(self, outputs: list[StepOutput]) -> None:
        self.calls += 1
        self.threads.add(threading.get_ident())
        for attempt, event in outputs:
            if isinstance(event, Tokens):
                self.ids.setdefault(attempt, []).extend(event.ids)
            else:
                self.finishes[attempt] = event
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def finish(self, attempt: int) -> Finish:
        await self.until(lambda: attempt in self.finishes)
        return self.finishes[attempt]


@asynccontextmanager
async def started(runner: FakeRunner, **changes: int) -> AsyncIterator[tuple[ThreadedEngine, Listener]]:
    engine, listener = ThreadedEngine(lambda: runner, replace(CONFIG, **changes)), Listener()
    await engine.start(listener)
    try:
        yield engine, listener
    finally:
        if isinstance(runner, GatedRunner):
            runner.allow(math.inf)
        await engine.stop()


def long_request(attempt: int) -> GenerateRequest:
    return make_request(attempt, [attempt], max_new_tokens=90)


async def test_answers_come_on_the_callers_loop() -> None:
    """Concurrent answers are those of the engine alone, delivered in the loop's thread."""
    requests = [make_request(i, [i, 2, 3], max_new_tokens=20, seed=i) for i in range(6)]
    async with started(FakeRunner()) as (engine, listener):
        await asyncio.gather(*[engine.submit(request) for request in requests])
        finishes = [await listener.finish(request.attempt) for request in requests]
    assert [listener.ids[request.attempt] for request in requests] == [expected_output(r) for r in requests]
    assert {finish.reason for finish in finishes} == {FinishReason.LENGTH}
    assert listener.threads == {threading.get_ident()}


async def test_sink_is_called_once_per_step() -> None:
    """All rows of a step come in one call."""
    runner = GatedRunner()
    async with started(runner) as (engine, listener):
        await engine.submit(make_request(0, [1]))
        await runner.held()
        submits = [asyncio.create_task(engine.submit(make_request(i, [i]))) for i in range(1, 4)]
        await asyncio.sleep(0)  # lets the submits reach the inbox
        runner.allow(math.inf)
        await asyncio.gather(*submits)
        for i in range(4):
            await listener.finish(i)
        assert listener.calls == engine.stats().steps == 9


async def test_loading_does_not_hold_up_the_loop() -> None:
    """The factory runs in the engine's thread; the loop goes on meanwhile."""
    may_load = threading.Event()

    def load() -> FakeRunner:
        assert may_load.wait(timeout=30)
        return FakeRunner()

    engine = ThreadedEngine(load, CONFIG)
    starting = asyncio.create_task(engine.start(Listener()))
    await asyncio.sleep(0)
    assert not starting.done()
    may_load.set()
    await starting
    await engine.stop()


@pytest.mark.parametrize("error", [CheckpointError("no file"), MemoryError("no room")])
async def test_failed_load_raises_from_start(error: Exception) -> None:
    """What the factory raises comes out of start, and no thread is left."""

    def load() -> FakeRunner:
        raise error

    engine = ThreadedEngine(load, CONFIG)
    with pytest.raises(type(error)):
        await engine.start(Listener())
    assert "engine" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(NoReplicaError):
        await engine.submit(make_request(1, [1]))


async def test_wrong_pool_raises_from_start() -> None:
    """A configuration that does not fit the runner is reported by start."""
    engine = ThreadedEngine(lambda: FakeRunner(page_size=8), CONFIG)
    with pytest.raises(ConfigurationError):
        await engine.start(Listener())


async def test_impossible_request_is_refused_by_submit() -> None:
    """A request over the context raises before anything is computed."""
    async with started(FakeRunner()) as (engine, listener):
        with pytest.raises(ContextLengthExceededError):
            await engine.submit(make_request(1, [1] * 90, max_new_tokens=7))
        assert (engine.stats().steps, listener.calls) == (0, 0)


async def test_full_queue_is_refused_by_submit() -> None:
    """With the batch and the queue full, submit raises OverloadedError, and what was accepted goes on."""
    runner = GatedRunner()
    async with started(runner, max_num_seqs=1, max_waiting=2) as (engine, listener):
        await engine.submit(long_request(0))
        for attempts in ([1], [2]):
            await runner.held()
            submits = [asyncio.create_task(engine.submit(long_request(i))) for i in attempts]
            await asyncio.sleep(0)  # lets the submits reach the inbox
            runner.allow(1)
            await asyncio.gather(*submits)
        await runner.held()
        refused = asyncio.create_task(engine.submit(long_request(3)))
        await asyncio.sleep(0)
        runner.allow(math.inf)
        with pytest.raises(OverloadedError):
            await refused
        for i in range(3):
            assert (await listener.finish(i)).reason is FinishReason.LENGTH


async def test_inbox_is_bounded_during_a_long_step() -> None:
    """While the thread is in a step no more than max_waiting submits are taken."""
    runner = GatedRunner()
    async with started(runner, max_waiting=2) as (engine, _):
        await engine.submit(long_request(0))
        await runner.held()
        submits = [asyncio.create_task(engine.submit(long_request(i))) for i in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await engine.submit(long_request(3))
        runner.allow(math.inf)
        await asyncio.gather(*submits)


async def test_abort_ends_an_attempt_within_two_steps() -> None:
    """An aborted attempt ends, its pages are free, and at most one token more was emitted."""
    runner = GatedRunner()
    async with started(runner) as (engine, listener):
        await engine.submit(long_request(1))
        runner.allow(3)
        await runner.held()
        await engine.abort(1)
        runner.allow(1)
        finish = await listener.finish(1)
        assert (finish.reason, finish.total) == (FinishReason.ABORTED, 4)
        assert engine.stats().pages_active == 0


async def test_abort_of_an_unknown_attempt_is_ignored() -> None:
    """Aborting a stranger leaves others alone."""
    async with started(FakeRunner()) as (engine, listener):
        await engine.abort(77)
        await engine.submit(make_request(1, [1]))
        assert (await listener.finish(1)).reason is FinishReason.LENGTH


async def test_cancelled_submit_is_aborted() -> None:
    """A caller that goes away while it submits leaves nothing running."""
    runner = GatedRunner()
    async with started(runner) as (engine, listener):
        await engine.submit(make_request(0, [1]))
        await runner.held()
        submit = asyncio.create_task(engine.submit(long_request(1)))
        await asyncio.sleep(0)
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        runner.allow(math.inf)
        assert (await listener.finish(1)).total <= 1


async def test_idle_engine_sleeps_and_wakes() -> None:
    """Without work no steps are made and nothing is stalled; the next request is served."""
    async with started(FakeRunner()) as (engine, listener):
        await engine.submit(make_request(1, [1]))
        await listener.finish(1)
        steps = engine.stats().steps
        await engine.abort(99)  # wakes the thread, which finds nothing to do
        await engine.submit(make_request(2, [1], max_new_tokens=0))
        await listener.finish(2)
        assert engine.stats().steps == steps
        await engine.submit(make_request(3, [1], max_new_tokens=3))
        await listener.finish(3)


async def test_stalled_step_is_seen() -> None:
    """While a step hangs the stall grows; when work is done it is zero."""
    runner = GatedRunner()
    async with started(runner) as (engine, listener):
        assert (engine.is_stalled(), engine.stalled_for_s()) == (False, 0.0)
        await engine.submit(make_request(1, [1]))
        await runner.held()
        first = engine.stalled_for_s()
        await listener_tick()
        assert engine.stalled_for_s() > first > 0.0
        runner.allow(math.inf)
        await listener.finish(1)
        async with asyncio.timeout(30):
            while engine.stalled_for_s():
                await listener_tick()


async def test_step_over_its_limit_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that hangs beyond its limit stalls the engine, and its end ends the stall."""
    monkeypatch.setattr("cluster.engine.step_pace.UNMEASURED_LIMIT_S", 0.0)
    runner = GatedRunner()
    async with started(runner) as (engine, listener):
        await engine.submit(make_request(1, [1]))
        await runner.held()
        async with asyncio.timeout(30):
            while not engine.is_stalled():
                await listener_tick()
        runner.allow(math.inf)
        await listener.finish(1)
        async with asyncio.timeout(30):
            while engine.is_stalled():
                await listener_tick()


async def listener_tick() -> None:
    """Let other threads run for a moment."""
    await asyncio.to_thread(lambda: None)


async def test_failed_step_is_reported_and_survived() -> None:
    """A step that raises ends its attempts; the engine serves the next and counts what happened."""
    runner = FakeRunner()
    async with started(runner) as (engine, listener):
        runner.failures = 1
        await engine.submit(make_request(1, [1]))
        assert (await listener.finish(1)).error == "step_failed"
        assert engine.failures_in_a_row == 1
        await engine.submit(make_request(2, [1]))
        assert (await listener.finish(2)).reason is FinishReason.LENGTH
        assert engine.failures_in_a_row == 0


async def test_stop_aborts_what_runs_and_joins() -> None:
    """Stopping ends every attempt through the sink, joins the thread, and may be repeated."""
    runner = FakeRunner()
    engine, listener = ThreadedEngine(lambda: runner, CONFIG), Listener()
    await engine.start(listener)
    for i in range(8):
        await engine.submit(long_request(i))
    await engine.stop()
    assert len(listener.finishes) == 8
    assert {finish.reason for finish in listener.finishes.values()} <= {FinishReason.ABORTED, FinishReason.LENGTH}
    assert (engine.stats().pages_active, engine.stalled_for_s()) == (0, 0.0)
    assert "engine" not in {thread.name for thread in threading.enumerate()}
    await engine.stop()
    await engine.abort(1)
    with pytest.raises(NoReplicaError):
        await engine.submit(long_request(9))


async def test_engine_that_never_started_stops() -> None:
    """Stopping before starting does nothing."""
    await ThreadedEngine(FakeRunner, CONFIG).stop()


async def test_crash_ends_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the engine itself fails all attempts, refuses new ones, and is seen by a health check."""
    runner = GatedRunner()
    async with started(runner) as (engine, listener):
        await engine.submit(long_request(1))
        await runner.held()
        monkeypatch.setattr("cluster.engine.scheduler.Scheduler.update", lambda *_: 1 / 0)
        pending = asyncio.create_task(engine.submit(long_request(2)))
        await asyncio.sleep(0)
        runner.allow(math.inf)
        assert (await listener.finish(1)).error == "engine_crashed"
        with pytest.raises(NoReplicaError):
            await pending
        assert (engine.is_stalled(), engine.stalled_for_s()) == (True, math.inf)
        with pytest.raises(NoReplicaError):
            await engine.submit(long_request(3))


async def test_engine_starts_once() -> None:
    """A second start is refused."""
    async with started(FakeRunner()) as (engine, listener):
        with pytest.raises(RuntimeError, match="once"):
            await engine.start(listener)


async def test_closed_loop_ends_the_thread() -> None:
    """When the loop is gone without a stop, the thread ends at its next event."""
    runner = GatedRunner()
    engine = ThreadedEngine(lambda: runner, CONFIG)

    async def forget() -> None:
        await engine.start(Listener())
        await engine.submit(long_request(1))
        await runner.held()

    await asyncio.to_thread(asyncio.run, forget())
    runner.allow(math.inf)
    await asyncio.to_thread(engine._thread.join, 30)
    assert not engine._thread.is_alive()
