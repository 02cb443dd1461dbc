"""What an engine in a thread promises beyond ``test_engine_clients.py``: its steps to the step, and no thread left."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.plan import StepPlan, StepResult
from cluster.errors import (
    CheckpointError,
    NoReplicaError,
)
from cluster.protocol import FinishReason, GenerateRequest
from tests.fakes.engine_driver import CONFIG, make_request
from tests.fakes.fake_runner import FakeRunner
from tests.fakes.listener import Listener


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


@asynccontextmanager
async def started(runner: FakeRunner) -> AsyncIterator[tuple[ThreadedEngine, Listener]]:
    engine, listener = ThreadedEngine(lambda: runner, CONFIG), Listener()
    await engine.start(listener)
    try:
        yield engine, listener
    finally:
        if isinstance(runner, GatedRunner):
            runner.allow(math.inf)
        await engine.stop()


def long_request(attempt: int) -> GenerateRequest:
    return make_request(attempt, [attempt], max_new_tokens=90)


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
