"""The engine's process: a ``ThreadedEngine`` that is told by messages what a local one is told by calls.

Its event loop only passes messages on; the engine has its thread. An engine that crashed ends its process, after the
last events: that frees the device for whoever replaces it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog
from msgspec.structs import replace

from cluster import logs
from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.client import EngineStats, StepOutput
from cluster.engine.process.backlog import Backlog
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
    commands,
    encode_frame,
)
from cluster.engine.process.vitals import BEAT_S, SharedVitals
from cluster.engine.step_pace import StepWatch
from cluster.errors import ClusterError, NoReplicaError
from cluster.faults import to_fault

Factory = Callable[[bytes, StepWatch], ThreadedEngine]

log = structlog.get_logger(__name__)


def run(factory: str, *, link_fd: int, vitals_fd: int, log_name: str) -> None:
    """Serve the parent until it says stop; ends the process at once when the parent is gone."""
    logs.configure(log_name)
    vitals = SharedVitals(vitals_fd)
    os.close(vitals_fd)
    os.set_inheritable(link_fd, False)  # or a compiler that we start would keep the link open after us
    end = socket.socket(fileno=link_fd)
    has_crashed = asyncio.run(EngineHost(_find(factory), vitals).serve(end))
    sys.exit(1 if has_crashed else 0)


def _find(path: str) -> Factory:
    module, _, name = path.partition(":")
    factory: Factory = getattr(importlib.import_module(module), name)
    return factory


class EngineHost:
    """Passes commands to the engine and reports to the parent."""

    def __init__(self, factory: Factory, vitals: SharedVitals) -> None:
        self._factory = factory
        self._vitals = vitals
        self._link = Link(commands(), self._take, self._ended, self._flush)
        self._engine: ThreadedEngine | None = None
        self._backlog = Backlog()
        self._submits: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reported = EngineStats()
        self._is_ending = False

    async def serve(self, end: socket.socket) -> bool:
        """Serve to the end; returns whether the engine has crashed."""
        self._closed = asyncio.get_running_loop().create_future()
        await self._link.open(end)
        while not self._closed.done():
            self._look_after()
            await asyncio.wait([self._closed], timeout=BEAT_S)
        return self._has_crashed()

    def _look_after(self) -> None:
        """Show life; tell the figures that no event has brought (a long prompt emits nothing for many steps)."""
        self._vitals.beat()
        if self._engine is not None and self._engine.stats() is not self._reported and not self._link.is_congested:
            self._report_step([])
        if self._has_crashed():
            self._end()

    def _has_crashed(self) -> bool:
        return self._engine is not None and math.isinf(self._engine.stalled_for_s())

    # -- commands ------------------------------------------------------------------------------------------------------

    def _take(self, command: Command) -> None:
        match command:
            case Submit():
                submit = self._submits[command.number] = self._own(self._submit(command))
                submit.add_done_callback(lambda _: self._submits.pop(command.number))
            case Withdraw():
                if waiting := self._submits.get(command.number):
                    waiting.cancel()
            case Abort():
                self._own(self._running.abort(command.attempt))
            case Forget():
                self._own(self._forget(command))
            case Begin():
                self._own(self._start(command.config))
            case Stop():
                self._own(self._stop())

    async def _start(self, config: bytes) -> None:
        try:
            self._engine = self._factory(config, StepWatch(slots=self._vitals.slots))
            await self._engine.start(self._deliver)
        except Exception as error:  # noqa: BLE001 -- the parent raises it
            if not isinstance(error, ClusterError):
                log.error("engine.cannot_start", traceback=traceback.format_exc())  # noqa: TRY400 -- no local variables
            self._send(NotStarted(to_fault(error)))
            self._end()
        else:
            self._send(Started())

    async def _submit(self, command: Submit) -> None:
        try:
            await self._running.submit(command.request)
        except ClusterError as error:
            self._send(Refused(command.number, to_fault(error)))
        else:
            self._send(Accepted(command.number))

    async def _forget(self, command: Forget) -> None:
        with contextlib.suppress(NoReplicaError):  # it has crashed: the parent hears that from the end of the link
            self._send(Forgot(command.number, await self._running.forget(command.label)))

    async def _stop(self) -> None:
        await self._running.stop()
        if not self._link.is_congested:
            self._report_step([])
        self._end()

    @property
    def _running(self) -> ThreadedEngine:
        assert self._engine is not None, "the first command is Begin"
        return self._engine

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task; those that are made one after another begin in that order."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- reports -------------------------------------------------------------------------------------------------------

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        """The engine's sink."""
        if self._link.is_congested:
            self._backlog.add(outputs)
        else:
            self._report_step(list(outputs))
        if self._has_crashed():
            self._end()

    def _flush(self) -> None:
        if self._backlog:
            self._report_step(self._backlog.take())
        if self._is_ending:
            self._link.close()

    def _report_step(self, outputs: list[StepOutput]) -> None:
        before, stats = self._reported.tenants, self._running.stats()
        tenants = None if stats.tenants is before else stats.tenants
        self._send(Step(outputs, replace(stats, tenants={}), self._running.failures_in_a_row, tenants))
        self._reported = stats

    def _send(self, report: Report) -> None:
        self._link.send(encode_frame(report))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Close the link once everything is on its way."""
        self._is_ending = True
        if not self._link.is_congested:
            self._link.close()

    def _ended(self) -> None:
        if not self._is_ending:  # the parent is gone, or has had enough: nobody needs the step under way
            os._exit(1)
        self._closed.set_result(None)
