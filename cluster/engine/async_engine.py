"""An engine in a thread of its own, spoken to from one event loop.

The loop never touches the engine: it leaves commands in an inbox, which the thread empties between steps and sleeps on
when there is nothing to compute. Answers travel back by ``call_soon_threadsafe``, all events of a step in one call.
The thread is not a daemon, because a device must not be torn down under a running kernel: whoever starts an engine
stops it.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import structlog

from cluster.engine.client import EngineClient, EngineStats, Sink, StepOutput
from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.guide import Guide
from cluster.engine.plan import Runner
from cluster.engine.step_pace import StepWatch
from cluster.engine.structure.compiler import StructureCompiler
from cluster.engine.unavailable import ENGINE_CRASHED, not_running, require_room
from cluster.errors import ClusterError, InvalidRequestError
from cluster.protocol import Forgotten, GenerateRequest, Label

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")
_Command = Callable[[Engine], None]


class ThreadedEngine(EngineClient):
    """``EngineClient`` over a runner that is built, used and dropped in one thread.

    All methods are called on the loop that called ``start``, those that only tell something from anywhere.

    Attributes:
        failures_in_a_row: as ``Engine.failures_in_a_row`` after the latest step; a health check may read it.
    """

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        config: EngineConfig,
        *,
        watch: StepWatch | None = None,
        structures: StructureCompiler | None = None,
    ) -> None:
        """``make_runner`` loads the model; it runs in the engine's thread, so the loop stays responsive.

        ``structures``, which the engine takes over, makes the guides of requests that ask for a structure; without it
        they are refused.
        """
        self._make_runner = make_runner
        self._config = config
        self._inbox: SimpleQueue[_Command | None] = SimpleQueue()  # None ends the thread
        self._pending: set[asyncio.Future[None]] = set()  # submits that the thread has not answered
        self._forgetting: set[asyncio.Future[Forgotten]] = set()  # the same of forgets
        self._thread: Thread | None = None
        self._is_open = False
        self._stats = EngineStats()
        self._watch = watch or StepWatch()
        self._structures = structures
        self._guiding: dict[int, bool] = {}  # attempts whose structure compiles: whether they were aborted meanwhile
        self._has_crashed = False
        self.failures_in_a_row = 0

    async def start(self, sink: Sink) -> None:
        """Load and begin to step. Raises what the runner's factory raises, or ConfigurationError."""
        if self._thread is not None:
            raise RuntimeError("An engine starts once.")
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        loaded: asyncio.Future[None] = self._loop.create_future()
        self._thread = Thread(target=self._main, args=(loaded,), name="engine")
        self._thread.start()
        self._is_open = True
        try:
            await loaded
        except BaseException:
            await self.stop()
            raise

    async def submit(self, request: GenerateRequest) -> None:
        """Queue a request; returns once the engine has accepted it, between two steps.

        Raises:
            InvalidRequestError, ContextLengthExceededError, OverloadedError: as ``Scheduler.add``, and as
                ``StructureCompiler.guide``.
            NoReplicaError: the engine has stopped.
        """
        self._require_open()
        guide, is_aborted = await self._guide(request) if request.sampling.structure else (None, False)
        require_room(len(self._pending), self._config.max_waiting, self.stalled_for_s())
        answer: asyncio.Future[None] = self._loop.create_future()
        self._pending.add(answer)
        answer.add_done_callback(self._pending.discard)
        self._inbox.put(partial(self._accept, request, guide, answer))
        if is_aborted:
            await self.abort(request.attempt)
        try:
            await answer
        except asyncio.CancelledError:
            await self.abort(request.attempt)  # it may be accepted already; the inbox keeps the order
            raise

    async def abort(self, attempt: int) -> None:
        """End an attempt before the next step; its Finish comes through the sink. Unknown attempts are ignored."""
        if attempt in self._guiding:
            self._guiding[attempt] = True
        elif self._is_open:
            self._inbox.put(partial(Engine.abort, attempt=attempt))

    async def forget(self, label: Label) -> Forgotten:
        """See ``EngineClient.forget``. It is done even if the caller does not wait for the answer."""
        self._require_open()
        answer: asyncio.Future[Forgotten] = self._loop.create_future()
        self._forgetting.add(answer)
        answer.add_done_callback(self._forgetting.discard)
        self._inbox.put(partial(self._forget, label, answer))
        return await answer

    def stats(self) -> EngineStats:
        """The snapshot taken after the latest step."""
        return self._stats

    def is_stalled(self) -> bool:
        """Whether the step under way takes far longer than steps of its size did, or the thread has died."""
        return self._has_crashed or self._watch.is_stalled()

    def stalled_for_s(self) -> float:
        """Seconds since the step under way began; 0 between steps, infinity when the thread has died."""
        return math.inf if self._has_crashed else self._watch.running_for_s()

    async def stop(self) -> None:
        """Abort what runs, report it through the sink, and join the thread. Waits for the step under way."""
        if self._is_open:
            self._is_open = False
            self._inbox.put(None)
        if self._structures is not None:
            await self._structures.stop()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)  # the thread's last events reach the sink before this returns

    async def _guide(self, request: GenerateRequest) -> tuple[Guide | None, bool]:
        """The guide of a request that asks for a structure, and whether it was aborted before there was one."""
        if self._structures is None:
            raise InvalidRequestError("This engine gives answers no structure.", param="response_format")
        self._guiding[request.attempt] = False
        try:
            guide = await self._structures.guide(request)
            self._require_open()
        finally:
            is_aborted = self._guiding.pop(request.attempt)
        return guide, is_aborted

    def _require_open(self) -> None:
        if not self._is_open or self._has_crashed:
            raise not_running()

    def _refuse_pending(self) -> None:
        answers: list[asyncio.Future[Any]] = [*self._pending, *self._forgetting]
        for answer in answers:
            _fail(answer, not_running())

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _main(self, loaded: asyncio.Future[None]) -> None:
        try:
            engine = Engine(self._make_runner(), self._config, watch=self._watch)
        except BaseException as error:  # noqa: BLE001 -- start() raises it
            self._post(partial(_fail, loaded, error))
            return
        self._stats = engine.stats()
        self._post(partial(_answer, loaded, None))
        try:
            self._serve(engine)
        except BaseException:  # noqa: BLE001 -- nobody is above; every open attempt must hear of it
            # Formatted here: exception() may be configured to render local variables, and those hold prompts.
            log.error("engine.crashed", traceback=traceback.format_exc())  # noqa: TRY400
            self._has_crashed = True
            self._deliver(engine.abandon(ENGINE_CRASHED))
            self._post(self._refuse_pending)

    def _serve(self, engine: Engine) -> None:
        while self._obey(engine):
            if engine.has_work:
                self._step(engine)
        for attempt in engine.attempts:
            engine.abort(attempt)
        self._step(engine)

    def _step(self, engine: Engine) -> None:
        outputs = engine.step()
        self._stats = engine.stats()
        self.failures_in_a_row = engine.failures_in_a_row
        self._deliver(outputs)

    def _obey(self, engine: Engine) -> bool:
        """Carry out the inbox, sleeping until there is work; False when it is time to end."""
        if not engine.has_work:
            command = self._inbox.get()
            if command is None:
                return False
            command(engine)
        try:
            while (command := self._inbox.get_nowait()) is not None:
                command(engine)
        except Empty:
            return True
        return False

    def _accept(
        self, request: GenerateRequest, guide: Guide | None, answer: asyncio.Future[None], engine: Engine
    ) -> None:
        try:
            engine.submit(request, guide)
        except ClusterError as error:
            self._post(partial(_fail, answer, error))
        else:
            self._post(partial(_answer, answer, None))

    def _forget(self, label: Label, answer: asyncio.Future[Forgotten], engine: Engine) -> None:
        forgotten = engine.forget(label)
        self._stats = engine.stats()  # an engine without work makes no step that would tell
        self._post(partial(_answer, answer, forgotten))

    def _deliver(self, outputs: list[StepOutput]) -> None:
        if outputs:
            self._post(partial(self._sink, outputs))

    def _post(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: its owner forgot to stop us, and nobody is left to hear
            self._inbox.put(None)


def _answer(future: asyncio.Future[Answer], value: Answer) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
