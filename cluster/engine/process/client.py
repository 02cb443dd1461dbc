"""``EngineClient`` over an engine in a child process.

The child is started from the loop's own thread and dies with it (``parentage``): nobody could hear it afterwards. When
it ends unasked, every open attempt is reported as moved, so that its owner goes on elsewhere, and the engine counts as
stalled for ever, so that its replica is replaced.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from msgspec.structs import replace

from cluster.engine.client import EngineClient, EngineStats, Sink, StepOutput
from cluster.engine.process.link import Link
from cluster.engine.process.messages import (
    Abort,
    Accepted,
    Begin,
    Command,
    Forget,
    Forgot,
    NotStarted,
    Refused,
    Report,
    Started,
    Step,
    Stop,
    Submit,
    Withdraw,
    encode_frame,
    reports,
)
from cluster.engine.process.spawn import Child, describe_exit, spawn
from cluster.engine.process.vitals import TICK_S, Pulse
from cluster.engine.step_pace import StepTimes
from cluster.engine.unavailable import ENGINE_CRASHED, not_running, require_room
from cluster.errors import ClusterError
from cluster.faults import to_error
from cluster.protocol import Finish, FinishReason, Forgotten, GenerateRequest, Label, Tokens, Usage

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


@dataclass(slots=True)
class _Open:
    """What is known here of an attempt that has not ended."""

    number: int  # of its submit
    prompt_tokens: int
    total: int
    cached_tokens: int = 0
    is_aborted: bool = False

    def take(self, tokens: Tokens) -> None:
        self.total = tokens.start + len(tokens.ids)
        self.cached_tokens = tokens.cached_tokens or self.cached_tokens

    def finish(self, reason: FinishReason, error: str) -> Finish:
        usage = Usage(prompt_tokens=self.prompt_tokens, cached_tokens=self.cached_tokens, output_tokens=self.total)
        return Finish(reason=reason, total=self.total, usage=usage, error=error)


class ProcessEngine(EngineClient):
    """An engine in a process of its own.

    All methods are called on the loop that called ``start``, those that only tell something from anywhere.

    Args:
        factory: ``module:function`` that makes the ``ThreadedEngine`` in the child, see ``child.Factory``. A constant
            of the program, never a value from outside.
        config: what the factory takes; data, not a pickle.
        max_waiting: submits that may be unanswered, as in ``EngineConfig``.

    Attributes:
        failures_in_a_row: as ``Engine.failures_in_a_row`` after the latest step; a health check may read it.
    """

    def __init__(self, factory: str, config: bytes, *, max_waiting: int) -> None:
        self._factory = factory
        self._config = config
        self._max_waiting = max_waiting
        self._child: Child | None = None
        self._link: Link[Report] = Link(reports(), self._take, self._ended)
        self._numbers = itertools.count()
        self._pending: dict[int, asyncio.Future[None]] = {}  # submits that the child has not answered
        self._forgetting: dict[int, asyncio.Future[Forgotten]] = {}  # forgets that it has not answered
        self._open: dict[int, _Open] = {}
        self._stats = EngineStats()
        self._times: StepTimes | None = None
        self._pulse: Pulse | None = None  # from when the model is loaded
        self._is_open = False
        self._has_died = False
        self.failures_in_a_row = 0

    @property
    def pid(self) -> int | None:
        """The child's process id; None before ``start``."""
        return None if self._child is None else self._child.process.pid

    async def start(self, sink: Sink) -> None:
        """Start the child, load and begin to step.

        Raises:
            ClusterError: what the factory or the loading raised, or the child ended meanwhile.
        """
        if self._child is not None:
            raise RuntimeError("An engine starts once.")
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._child, end, vitals = spawn(self._factory)
        self._times = StepTimes(vitals.slots)
        try:
            await self._link.open(end)
            self._is_open = True
            self._send(Begin(self._config))
            await self._loaded
        except BaseException:
            await self.stop()
            raise
        self._pulse = Pulse(vitals.last_beat)
        self._watch()

    async def submit(self, request: GenerateRequest) -> None:
        """Queue a request; returns once the engine has accepted it, between two steps.

        Raises:
            InvalidRequestError, ContextLengthExceededError, OverloadedError: as ``Scheduler.add``.
            NoReplicaError: the engine has stopped.
        """
        if not self._is_open:
            raise not_running()
        require_room(len(self._pending), self._max_waiting, self.stalled_for_s())
        number, attempt = next(self._numbers), request.attempt
        answer = self._pending[number] = self._loop.create_future()
        opened = None if attempt in self._open else _Open(number, len(request.prompt_ids), len(request.output_ids))
        if opened is not None:  # the engine refuses an attempt that runs already; what runs goes on
            self._open[attempt] = opened
        self._send(Submit(number, request))
        try:
            await answer
        except BaseException as error:
            if self._open.get(attempt) is opened:
                self._open.pop(attempt, None)
            if isinstance(error, asyncio.CancelledError):
                self._withdraw(number, attempt)
            raise
        finally:
            self._pending.pop(number, None)

    def _withdraw(self, number: int, attempt: int) -> None:
        self._send(Withdraw(number))
        self._send(Abort(attempt))  # it may be accepted already, and the answer on its way

    async def abort(self, attempt: int) -> None:
        """End an attempt before the next step; its Finish comes through the sink. Unknown attempts are ignored."""
        entry = self._open.get(attempt)
        if entry is not None and not entry.is_aborted:  # said once: a child that hangs does not read
            entry.is_aborted = True
            self._send(Abort(attempt))

    async def forget(self, label: Label) -> Forgotten:
        """See ``EngineClient.forget``. It is done even if the caller does not wait for the answer."""
        if not self._is_open:
            raise not_running()
        number = next(self._numbers)
        answer: asyncio.Future[Forgotten] = self._loop.create_future()
        self._forgetting[number] = answer
        self._send(Forget(number, label))
        try:
            return await answer
        finally:
            self._forgetting.pop(number, None)

    def stats(self) -> EngineStats:
        """The snapshot that came with the latest step."""
        return self._stats

    def is_stalled(self) -> bool:
        """Whether the step under way takes too long, or the child does not come round at all or has died."""
        times = self._times  # another thread may ask while the child ends
        return self._has_died or self._silent_for_s() > 0 or (times is not None and times.is_stalled())

    def stalled_for_s(self) -> float:
        """Seconds since the step under way began, or the child was last alive; infinity when it has died."""
        if self._has_died:
            return math.inf
        times = self._times
        return max(self._silent_for_s(), 0.0 if times is None else times.running_for_s())

    async def stop(self) -> None:
        """Abort what runs, report it through the sink, and end the child.

        Waits for the step under way; a child that has stalled is killed.
        """
        if self._child is None:
            return
        if self._is_open:
            self._is_open = False
            self._send(Stop())
        if not _has_succeeded(self._loaded):
            self._child.kill()
        while not self._closed.done():
            await asyncio.wait([self._closed], timeout=TICK_S)
            if self.is_stalled():
                self._child.kill()
        await asyncio.shield(self._burial)

    # -- what the child reports ----------------------------------------------------------------------------------------

    def _take(self, report: Report) -> None:
        match report:
            case Step():
                self._take_step(report)
            case Accepted():
                self._answer(report.number, None)
            case Refused():
                self._answer(report.number, to_error(report.fault))
            case Forgot():
                if answer := self._forgetting.pop(report.number, None):
                    _settle(answer, report.forgotten)
            case Started():
                _settle(self._loaded, None)
            case NotStarted():
                _fail(self._loaded, to_error(report.fault))

    def _take_step(self, step: Step) -> None:
        tenants = self._stats.tenants if step.tenants is None else step.tenants
        self._stats = replace(step.stats, tenants=tenants)
        self.failures_in_a_row = step.failures_in_a_row
        for attempt, event in step.outputs:
            if entry := self._open.get(attempt):
                self._take_event(attempt, entry, event)
        self._deliver(step.outputs)

    def _take_event(self, attempt: int, entry: _Open, event: Tokens | Finish) -> None:
        self._answer(entry.number, None)  # what has events was accepted; the answer itself may come later, or never
        if isinstance(event, Finish):
            del self._open[attempt]
        else:
            entry.take(event)

    def _answer(self, number: int, error: Exception | None) -> None:
        if answer := self._pending.pop(number, None):
            _settle(answer, None) if error is None else _fail(answer, error)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        if outputs:
            self._loop.call_soon(self._sink, outputs)  # apart from the link, which an exception of the sink would close

    def _send(self, command: Command) -> None:
        self._link.send(encode_frame(command))

    # -- life and death ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._pulse is not None and not self._closed.done():
            self._pulse.check()
            self._loop.call_later(TICK_S, self._watch)

    def _silent_for_s(self) -> float:
        pulse = self._pulse
        return 0.0 if pulse is None else pulse.silent_for_s

    def _ended(self) -> None:
        """The link is closed: the child has ended, or is about to."""
        is_wanted, self._is_open = not self._is_open, False
        self._has_died = not is_wanted and _has_succeeded(self._loaded)
        self._pulse = self._times = None  # the shared memory goes with the last look at it
        for number in list(self._pending):
            self._answer(number, not_running())
        for answer in self._forgetting.values():
            _fail(answer, not_running())
        reason, error = (FinishReason.ABORTED, "") if is_wanted else (FinishReason.MOVED, ENGINE_CRASHED)
        self._deliver([(attempt, entry.finish(reason, error)) for attempt, entry in self._open.items()])
        self._open.clear()
        self._burial = self._loop.create_task(self._bury())
        self._closed.set_result(None)

    async def _bury(self) -> None:
        """Wait for the process's end, and tell how it was where nobody had asked for it."""
        assert self._child is not None
        if self._has_died:
            self._child.kill()  # it has closed the link, so it serves nobody
        how = describe_exit(await asyncio.to_thread(self._child.reap))
        _fail(self._loaded, ClusterError(f"The engine's process ended while it loaded the model ({how})."))
        if self._has_died:
            log.error("engine.process_died", pid=self.pid, how=how)


def _settle(future: asyncio.Future[Result], value: Result) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _has_succeeded(future: asyncio.Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
