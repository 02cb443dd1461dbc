"""What every ``EngineClient`` promises, held by the engine in a thread and by the engine in a process of its own."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cluster.engine import step_pace
from cluster.engine.client import EngineClient
from cluster.engine.tenant_use import TenantUse
from cluster.errors import (
    CheckpointError,
    ConfigurationError,
    ContextLengthExceededError,
    InvalidRequestError,
    NoReplicaError,
    OverloadedError,
)
from cluster.protocol import FinishReason, Forgotten, GenerateRequest, Label
from tests.fakes.engine_driver import CONFIG, make_request
from tests.fakes.fake_runner import expected_output
from tests.fakes.listener import Listener
from tests.fakes.steered_engine import KINDS, SteeredConfig, Steering, steered_engine

TICK_S = 0.005


@dataclass
class Rig:
    """An engine of one kind, its sink, and the hand on its runner."""

    engine: EngineClient
    listener: Listener
    steering: Steering


Start = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Where the engine runs."""
    return request.param


@pytest.fixture
def build(kind: str, tmp_path: Path) -> Callable[..., Rig]:
    """An engine that was not started; ``changes`` are those of its configuration."""

    def make(*, error: str = "", page_size: int = 4, limit_s: float = 60.0, **changes: int) -> Rig:
        path = tmp_path / "steering"
        steering = Steering(path, is_new=True)
        config = SteeredConfig(replace(CONFIG, **changes), str(path), page_size, error, limit_s)
        return Rig(steered_engine(kind, config), Listener(), steering)

    return make


@pytest.fixture
def started(build: Callable[..., Rig]) -> Start:
    """An engine that runs inside the block."""

    @asynccontextmanager
    async def run(**changes: float) -> AsyncIterator[Rig]:
        rig = build(**changes)
        await rig.engine.start(rig.listener)
        try:
            yield rig
        finally:
            rig.steering.allow()
            await rig.engine.stop()

    return run


def long_request(attempt: int) -> GenerateRequest:
    """Ninety steps."""
    return make_request(attempt, [attempt], max_new_tokens=90)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that no event tells of."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(TICK_S)


async def stepping(rig: Rig, condition: Callable[[], bool]) -> None:
    """Let step after step pass until the condition holds; messages may be on their way for some of them."""

    def holds() -> bool:
        rig.steering.allow(1)
        return condition()

    await until(holds)


async def begun(*submits: asyncio.Task[None]) -> None:
    """Let submits get as far as they can without an answer."""
    await asyncio.wait(submits, timeout=TICK_S)


async def test_answers_are_those_of_the_engine_alone_on_the_callers_loop(started: Start) -> None:
    """Concurrent requests have the ids they have alone; events come in the caller's thread."""
    requests = [make_request(i, [i, 2, 3], max_new_tokens=20, seed=i) for i in range(6)]
    async with started() as rig:
        await asyncio.gather(*[rig.engine.submit(request) for request in requests])
        finishes = [await rig.listener.finish(request.attempt) for request in requests]
    assert [rig.listener.ids[request.attempt] for request in requests] == [expected_output(r) for r in requests]
    assert {finish.reason for finish in finishes} == {FinishReason.LENGTH}
    assert rig.listener.threads == {threading.get_ident()}


async def test_an_answer_goes_on_after_ids_emitted_elsewhere(started: Start) -> None:
    """Only what is new is emitted, with the same draws; attempts may be any number of 64 bits."""
    whole = make_request(2**64 - 1, [1, 2], max_new_tokens=12, seed=5)
    moved = make_request(2**64 - 1, [1, 2], max_new_tokens=12, seed=5, output_ids=expected_output(whole)[:5])
    async with started() as rig:
        await rig.engine.submit(moved)
        finish = await rig.listener.finish(moved.attempt)
    assert rig.listener.ids[moved.attempt] == expected_output(whole)[5:]
    assert (finish.total, finish.usage.output_tokens) == (12, 12)


async def test_sink_is_called_once_per_step_and_figures_are_there_by_then(started: Start) -> None:
    """All rows of a step come in one call; the figures count what the events tell."""
    async with started() as rig:
        rig.steering.hold()
        await rig.engine.submit(long_request(0))
        submit = asyncio.create_task(rig.engine.submit(long_request(1)))
        await stepping(rig, submit.done)
        rig.steering.allow()
        for i in range(2):
            await rig.listener.finish(i)
        assert rig.listener.calls == rig.engine.stats().steps < 2 * 90
        assert (rig.engine.stats().output_tokens, rig.engine.stats().pages_active) == (180, 0)


async def test_figures_tell_the_use_of_the_cache_by_tenant(started: Start) -> None:
    """They cross whatever border there is, and are those of now once the work is done."""
    async with started(max_named_tenants=1) as rig:
        for i, tenant in enumerate(["acme", "acme", "guest"]):
            await rig.engine.submit(make_request(i, list(range(9)), tenant=tenant, max_new_tokens=4))
            await rig.listener.finish(i)
        assert rig.engine.stats().tenants == {
            "acme": TenantUse(cached_pages=3, hit_tokens=8, miss_tokens=8),
            "other": TenantUse(cached_pages=3, miss_tokens=8),
        }


async def test_what_is_forgotten_is_not_found_again(started: Start) -> None:
    """Others keep theirs; the figures of an engine without work tell it."""
    async with started() as rig:

        async def cached_tokens(attempt: int, pin_key: str) -> int:
            prompt = [1 if pin_key == "x" else 2] * 9
            await rig.engine.submit(make_request(attempt, prompt, max_new_tokens=4, pin_key=pin_key))
            return (await rig.listener.finish(attempt)).usage.cached_tokens

        assert [await cached_tokens(attempt, pin_key) for attempt, pin_key in enumerate("xyx")] == [0, 0, 8]
        assert await rig.engine.forget(Label(tenant="a", pin_key="x")) == Forgotten(dropped=3)
        await until(lambda: rig.engine.stats().pages_cached == 3)
        assert [await cached_tokens(attempt, pin_key) for attempt, pin_key in enumerate("xy", 3)] == [0, 8]


async def test_a_running_answer_leaves_no_page_of_what_was_forgotten(started: Start) -> None:
    """It goes on to its end, and all its pages with it."""
    async with started() as rig:
        rig.steering.hold()
        submit = asyncio.create_task(rig.engine.submit(make_request(1, [1] * 9, max_new_tokens=30, pin_key="x")))
        await stepping(rig, submit.done)
        await stepping(rig, lambda: rig.engine.stats().output_tokens > 0)
        forget = asyncio.create_task(rig.engine.forget(Label(tenant="a", pin_key="x")))
        await stepping(rig, forget.done)
        rig.steering.allow()
        assert (await rig.listener.finish(1)).reason is FinishReason.LENGTH
        assert forget.result().held > 0
        await until(lambda: rig.engine.stats().pages_active == 0)
        assert rig.engine.stats().pages_cached == 0


async def test_an_engine_that_has_stopped_forgets_nothing(started: Start) -> None:
    """Its pages went with it, and whoever asks hears that it is not there."""
    async with started() as rig:
        await rig.engine.stop()
        with pytest.raises(NoReplicaError):
            await rig.engine.forget(Label(tenant="a", pin_key="x"))


async def test_figures_of_steps_that_emit_nothing_are_told_too(started: Start) -> None:
    """A long prompt shows in the figures before its first id."""
    async with started() as rig:
        rig.steering.hold()
        await rig.engine.submit(make_request(1, [1] * 40, max_new_tokens=2))
        rig.steering.allow(2)
        await until(lambda: rig.engine.stats().steps == 2)
        assert (rig.listener.calls, rig.engine.stats().running) == (0, 1)


async def test_loading_does_not_hold_up_the_loop(build: Callable[..., Rig]) -> None:
    """The loop goes on while the runner's factory runs."""
    rig = build()
    rig.steering.hold_loading()
    starting = asyncio.create_task(rig.engine.start(rig.listener))
    await begun(starting)
    assert not starting.done()
    assert not rig.engine.is_stalled()
    rig.steering.hold_loading(is_held=False)
    await starting
    await rig.engine.stop()


@pytest.mark.parametrize(
    ("name", "kind_of_error", "words"),
    [("checkpoint", CheckpointError, "^no file$"), ("memory", MemoryError, "^no room$")],
)
async def test_failed_load_raises_from_start(
    build: Callable[..., Rig], name: str, kind_of_error: type[Exception], words: str
) -> None:
    """What the factory raises comes out of start with its text; nothing can be submitted."""
    rig = build(error=name)
    with pytest.raises(kind_of_error, match=words):
        await rig.engine.start(rig.listener)
    with pytest.raises(NoReplicaError):
        await rig.engine.submit(make_request(1, [1]))
    assert (rig.engine.is_stalled(), rig.engine.stalled_for_s()) == (False, 0.0)


async def test_wrong_pool_raises_from_start(build: Callable[..., Rig]) -> None:
    """A configuration that does not fit the runner is reported by start."""
    rig = build(page_size=8)
    with pytest.raises(ConfigurationError, match="page_size is 4, but the runner's pages hold 8"):
        await rig.engine.start(rig.listener)


async def test_cancelled_start_leaves_nothing_running(build: Callable[..., Rig]) -> None:
    """Whoever waits for a model may stop waiting; the engine is stopped when start returns."""
    rig = build()
    rig.steering.hold_loading()
    starting = asyncio.create_task(rig.engine.start(rig.listener))
    await begun(starting)
    starting.cancel()
    rig.steering.hold_loading(is_held=False)
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(NoReplicaError):
        await rig.engine.submit(make_request(1, [1]))


async def test_impossible_request_is_refused_by_submit(started: Start) -> None:
    """A request over the context raises, with its numbers, before anything is computed."""
    async with started() as rig:
        with pytest.raises(ContextLengthExceededError) as refused:
            await rig.engine.submit(make_request(1, [1] * 90, max_new_tokens=7))
        assert (rig.engine.stats().steps, rig.listener.calls) == (0, 0)
    error = refused.value
    assert (error.prompt_tokens, error.max_tokens, error.context_length) == (90, 7, 96)
    assert str(error) == str(ContextLengthExceededError(prompt_tokens=90, max_tokens=7, context_length=96))


async def test_an_attempt_that_runs_is_not_taken_twice(started: Start) -> None:
    """The second submit names the field; the first goes on."""
    async with started() as rig:
        rig.steering.hold()
        await rig.engine.submit(long_request(1))
        second = asyncio.create_task(rig.engine.submit(long_request(1)))
        await stepping(rig, second.done)
        with pytest.raises(InvalidRequestError) as refused:
            await second
        assert refused.value.param == "attempt"
        await rig.engine.abort(1)
        await stepping(rig, lambda: 1 in rig.listener.finishes)
        assert rig.listener.finishes[1].reason is FinishReason.ABORTED


async def test_full_queue_is_refused_by_submit(started: Start) -> None:
    """With the batch and the queue full, submit raises OverloadedError, and what was accepted goes on."""
    async with started(max_num_seqs=1, max_waiting=2) as rig:
        rig.steering.hold()
        await rig.engine.submit(long_request(0))
        for attempt in (1, 2):
            submit = asyncio.create_task(rig.engine.submit(long_request(attempt)))
            await stepping(rig, submit.done)
            await submit
        refused = asyncio.create_task(rig.engine.submit(long_request(3)))
        await stepping(rig, refused.done)
        with pytest.raises(OverloadedError, match="queue is full") as overload:
            await refused
        assert overload.value.retry_after_s >= 1
        rig.steering.allow()
        for attempt in range(3):
            assert (await rig.listener.finish(attempt)).reason is FinishReason.LENGTH


async def test_inbox_is_bounded_during_a_long_step(started: Start) -> None:
    """While the engine is in a step no more than max_waiting submits are taken."""
    async with started(max_waiting=2) as rig:
        rig.steering.hold()
        await rig.engine.submit(long_request(0))
        await rig.steering.held()
        submits = [asyncio.create_task(rig.engine.submit(long_request(i))) for i in (1, 2)]
        await begun(*submits)
        with pytest.raises(OverloadedError, match="inbox is full"):
            await rig.engine.submit(long_request(3))
        rig.steering.allow()
        await asyncio.gather(*submits)


async def test_abort_ends_an_attempt(started: Start) -> None:
    """An aborted attempt ends early, its pages are free, and nothing more is emitted."""
    async with started() as rig:
        rig.steering.hold()
        await rig.engine.submit(long_request(1))
        await stepping(rig, lambda: len(rig.listener.ids.get(1, [])) >= 3)
        for _ in range(3):  # said more than once
            await rig.engine.abort(1)
        await stepping(rig, lambda: 1 in rig.listener.finishes)
        finish = rig.listener.finishes[1]
        assert finish.reason is FinishReason.ABORTED
        assert finish.total == len(rig.listener.ids[1]) < 90
        assert rig.engine.stats().pages_active == 0


async def test_abort_of_an_unknown_attempt_is_ignored(started: Start) -> None:
    """Aborting a stranger leaves others alone."""
    async with started() as rig:
        await rig.engine.abort(77)
        await rig.engine.submit(make_request(1, [1]))
        assert (await rig.listener.finish(1)).reason is FinishReason.LENGTH


async def test_cancelled_submit_leaves_nothing_running(started: Start) -> None:
    """A caller that goes away while it submits: the attempt ends early, or never begins."""
    async with started() as rig:
        rig.steering.hold()
        await rig.engine.submit(long_request(0))
        await rig.steering.held()
        submit = asyncio.create_task(rig.engine.submit(long_request(1)))
        await begun(submit)
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        other = asyncio.create_task(rig.engine.submit(long_request(2)))
        await stepping(rig, other.done)
        rig.steering.allow()
        await rig.listener.finish(0)
        await rig.listener.finish(2)
        await until(lambda: not rig.engine.stats().running)
        assert len(rig.listener.ids.get(1, [])) < 90


async def test_idle_engine_sleeps_and_wakes(started: Start) -> None:
    """Without work no steps are made and nothing is stalled; the next request is served."""
    async with started() as rig:
        await rig.engine.submit(make_request(1, [1]))
        await rig.listener.finish(1)
        steps = rig.engine.stats().steps
        await rig.engine.abort(99)
        await rig.engine.submit(make_request(2, [1], max_new_tokens=0))
        await rig.listener.finish(2)
        assert rig.engine.stats().steps == steps
        await rig.engine.submit(make_request(3, [1], max_new_tokens=3))
        await rig.listener.finish(3)
        assert not rig.engine.is_stalled()


async def test_time_in_a_step_is_seen(started: Start) -> None:
    """While a step hangs its time grows; when work is done it is zero."""
    async with started() as rig:
        assert (rig.engine.is_stalled(), rig.engine.stalled_for_s()) == (False, 0.0)
        rig.steering.hold()
        await rig.engine.submit(make_request(1, [1]))
        await rig.steering.held()
        first = rig.engine.stalled_for_s()
        await until(lambda: rig.engine.stalled_for_s() > first > 0.0)
        assert not rig.engine.is_stalled()
        rig.steering.allow()
        await rig.listener.finish(1)
        await until(lambda: rig.engine.stalled_for_s() == 0.0)


async def test_step_over_its_limit_is_a_stall(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that hangs beyond its limit stalls the engine, and its end ends the stall."""
    monkeypatch.setattr(step_pace, "UNMEASURED_LIMIT_S", 0.0)  # and what the factory sets is put back
    async with started(limit_s=0.0) as rig:
        rig.steering.hold()
        await rig.engine.submit(make_request(1, [1]))
        await rig.steering.held()
        await until(rig.engine.is_stalled)
        rig.steering.allow()
        await rig.listener.finish(1)
        await until(lambda: not rig.engine.is_stalled())


async def test_failed_step_is_reported_and_survived(started: Start) -> None:
    """A step that raises ends its attempts; the engine serves the next and counts what happened."""
    async with started() as rig:
        rig.steering.fail(1)
        await rig.engine.submit(make_request(1, [1]))
        finish = await rig.listener.finish(1)
        assert (finish.reason, finish.error) == (FinishReason.FAILED, "step_failed")
        assert rig.engine.failures_in_a_row == 1
        await rig.engine.submit(make_request(2, [1]))
        assert (await rig.listener.finish(2)).reason is FinishReason.LENGTH
        assert rig.engine.failures_in_a_row == 0


async def test_stop_aborts_what_runs(build: Callable[..., Rig]) -> None:
    """Stopping ends every attempt through the sink before it returns, and may be repeated."""
    rig = build()
    await rig.engine.start(rig.listener)
    for i in range(8):
        await rig.engine.submit(long_request(i))
    await rig.engine.stop()
    assert len(rig.listener.finishes) == 8
    assert {end.reason for end in rig.listener.finishes.values()} <= {FinishReason.ABORTED, FinishReason.LENGTH}
    assert (rig.engine.stats().pages_active, rig.engine.stalled_for_s()) == (0, 0.0)
    await rig.engine.stop()
    await rig.engine.abort(1)
    with pytest.raises(NoReplicaError):
        await rig.engine.submit(long_request(9))


async def test_engine_that_never_started_stops(build: Callable[..., Rig]) -> None:
    """Stopping before starting does nothing."""
    await build().engine.stop()


async def test_crash_moves_every_attempt(started: Start) -> None:
    """A fault of the engine itself moves all attempts, refuses new ones, and is seen by a health check."""
    async with started() as rig:
        rig.steering.hold()
        await rig.engine.submit(long_request(1))
        rig.steering.allow(4)
        await rig.listener.until(lambda: len(rig.listener.ids.get(1, [])) == 4)
        await rig.steering.held()
        rig.steering.crash()
        pending = asyncio.create_task(rig.engine.submit(long_request(2)))
        forget = asyncio.create_task(rig.engine.forget(Label(tenant="a", pin_key="x")))
        await begun(pending)
        rig.steering.allow()
        finish = await rig.listener.finish(1)
        assert (finish.reason, finish.error, finish.total) == (FinishReason.MOVED, "engine_crashed", 4)
        with pytest.raises(NoReplicaError):
            await pending
        with pytest.raises(NoReplicaError):
            await forget
        await until(rig.engine.is_stalled)
        assert rig.engine.stalled_for_s() == math.inf
        with pytest.raises(NoReplicaError):
            await rig.engine.submit(long_request(3))


async def test_a_sink_that_raises_harms_nobody(build: Callable[..., Rig]) -> None:
    """Its exception goes to the loop's handler; later events come."""
    rig = build()
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))

    def sink(outputs: list[object]) -> None:
        rig.listener(outputs)
        if len(seen) < 2:
            raise KeyError("of the sink")

    await rig.engine.start(sink)
    await rig.engine.submit(make_request(1, [1]))
    assert (await rig.listener.finish(1)).reason is FinishReason.LENGTH
    assert [type(error) for error in seen] == [KeyError, KeyError]
    await rig.engine.stop()


async def test_engine_starts_once(started: Start) -> None:
    """A second start is refused."""
    async with started() as rig:
        with pytest.raises(RuntimeError, match="once"):
            await rig.engine.start(rig.listener)
