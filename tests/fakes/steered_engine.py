"""An engine over the fake runner that a test steers from wherever it runs: the same thread's process or another one.

Test and runner share a small file in memory; neither needs the other's loop or lock, so a runner can be held in the
midst of a step whichever process it is in.
"""

from __future__ import annotations

import asyncio
import math
import mmap
import time
from pathlib import Path
from typing import Final

import msgspec

from cluster.engine import step_pace
from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.client import EngineClient
from cluster.engine.config import EngineConfig
from cluster.engine.plan import StepPlan, StepResult
from cluster.engine.process.client import ProcessEngine
from cluster.engine.step_pace import StepWatch
from cluster.errors import CheckpointError
from tests.fakes.fake_runner import FakeRunner

KINDS: Final = ("thread", "process")
POLL_S: Final = 0.0005
PATIENCE_S: Final = 60.0

_ALLOWED, _BEGUN, _FAILING, _CRASHING, _LOADING = range(5)
_SIZE = 8 * 5


class Breakdown(BaseException):
    """What no step survives."""


class Steering:
    """The shared file; made by the test, opened again by the runner.

    Steps pass freely at first; ``hold`` stops them, ``allow`` lets some pass.
    """

    def __init__(self, path: Path, *, is_new: bool) -> None:
        if is_new:
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._slots = memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("d")
        if is_new:
            self._slots[_ALLOWED] = math.inf
            self._slots[_LOADING] = 1.0

    # -- the test's side -----------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Let no further step pass."""
        self._slots[_ALLOWED] = self._slots[_BEGUN]

    def allow(self, steps: float = math.inf) -> None:
        """Let that many more steps pass."""
        self._slots[_ALLOWED] += steps

    def fail(self, steps: int) -> None:
        """The next steps raise instead of computing."""
        self._slots[_FAILING] = steps

    def crash(self) -> None:
        """The next step ends the engine."""
        self._slots[_CRASHING] = 1.0

    def hold_loading(self, *, is_held: bool = True) -> None:
        """Keep the runner's factory from returning."""
        self._slots[_LOADING] = 0.0 if is_held else 1.0

    def is_holding(self) -> bool:
        """Whether a step waits inside the runner."""
        return self._slots[_BEGUN] > self._slots[_ALLOWED]

    def steps(self) -> int:
        """How many have begun."""
        return int(self._slots[_BEGUN])

    async def held(self) -> None:
        """Wait until a step does."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.is_holding():  # noqa: ASYNC110 -- whoever changes it may be another process
                await asyncio.sleep(POLL_S)

    # -- the runner's side ---------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Wait for the test."""
        self._wait(lambda: self._slots[_LOADING] > 0)

    def step(self) -> None:
        """Wait for the test; raise what it asked for."""
        self._slots[_BEGUN] += 1
        self._wait(lambda: self._slots[_ALLOWED] >= self._slots[_BEGUN])
        if self._slots[_CRASHING]:
            raise Breakdown("the engine is broken")
        if self._slots[_FAILING]:
            self._slots[_FAILING] -= 1
            raise RuntimeError("the device is gone")

    @staticmethod
    def _wait(condition) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "the test has forgotten its runner"
            time.sleep(POLL_S)


class SteeredRunner(FakeRunner):
    """Computes when the test lets it."""

    def __init__(self, steering: Steering, *, page_size: int) -> None:
        super().__init__(page_size=page_size)
        self._steering = steering

    def run(self, plan: StepPlan) -> StepResult:
        self._steering.step()
        return super().run(plan)


class SteeredConfig(msgspec.Struct):
    """What the factory takes. ``error`` is what loading raises, by name; ``limit_s`` that of a step never measured."""

    engine: EngineConfig
    steering: str
    page_size: int = 4
    error: str = ""
    limit_s: float = step_pace.UNMEASURED_LIMIT_S


_ERRORS = {"checkpoint": CheckpointError("no file"), "memory": MemoryError("no room"), "other": KeyError("what")}


def make(data: bytes, watch: StepWatch) -> ThreadedEngine:
    """The factory, in whichever process."""
    config = msgspec.json.decode(data, type=SteeredConfig)
    step_pace.UNMEASURED_LIMIT_S = config.limit_s

    def load() -> SteeredRunner:
        steering = Steering(Path(config.steering), is_new=False)
        steering.load()
        if config.error:
            raise _ERRORS[config.error]
        return SteeredRunner(steering, page_size=config.page_size)

    return ThreadedEngine(load, config.engine, watch=watch)


def impossible(data: bytes, watch: StepWatch) -> ThreadedEngine:
    """A factory that itself raises."""
    raise CheckpointError("config.json is none")


def steered_engine(kind: str, config: SteeredConfig) -> EngineClient:
    """The engine in a thread of this process, or in a process of its own."""
    data = msgspec.json.encode(config)
    if kind == "thread":
        return make(data, StepWatch())
    return ProcessEngine(f"{__name__}:make", data, max_waiting=config.engine.max_waiting)
