"""An engine that computes nothing: every row gets its next id at a fixed rate, whatever the rest of the world does.

Steps follow an absolute schedule, so a process that lags is given the missed steps at once: the offered rate never
falls. Like ``ThreadedEngine`` it lives in a thread and hands all rows' outputs of a step to the sink in one call. When
it falls idle it writes down when each id left, so that a client on the same machine can tell how long its way took.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cluster.engine.client import EngineClient, EngineStats, Sink, StepOutput
from cluster.protocol import Finish, FinishReason, Forgotten, GenerateRequest, Label, Tokens, Usage
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

LOG_VARIABLE = "PACED_ENGINE_LOG"
STEPS_PER_S = 50.0
TEXT = "The quiet river carries copper and bread along the harbour while students draw maps of distant towns"


class Sent(msgspec.Struct, frozen=True):
    """When the ids of one request left. Times are monotonic seconds, the same clock in all processes.

    ``first_step`` is the place in ``Record.steps`` of its first id; the others follow step by step.
    """

    submitted: float
    first_step: int
    ids: int


class Record(msgspec.Struct, frozen=True):
    """All steps between two idle times, and the requests that took part, by their request id."""

    steps: list[float]
    requests: dict[str, Sent]


@dataclass(slots=True)
class _Row:
    request: GenerateRequest
    submitted: float
    first_step: int = 0
    ids: int = 0


@dataclass
class PacedEngine(EngineClient):
    """``EngineClient`` that emits ``ids`` over and over, one id a row and step.

    Attributes:
        ids: what every answer consists of, from the beginning again when it ends.
        steps_per_s: the rate.
        log: where records go, one JSON line each.
    """

    ids: Sequence[int]
    steps_per_s: float
    log: Path
    _rows: dict[int, _Row] = field(default_factory=dict)
    _wanted: threading.Condition = field(default_factory=threading.Condition)
    _is_open: bool = True

    async def start(self, sink: Sink) -> None:
        """Begin to step."""
        self._loop, self._sink = asyncio.get_running_loop(), sink
        self._thread = threading.Thread(target=self._run, name="paced-engine")
        self._thread.start()

    async def submit(self, request: GenerateRequest) -> None:
        """Give the request a row from the next step on."""
        with self._wanted:
            self._rows[request.attempt] = _Row(request, time.monotonic())
            self._wanted.notify()

    async def abort(self, attempt: int) -> None:
        """Take the row away without a word."""
        with self._wanted:
            self._rows.pop(attempt, None)

    async def forget(self, label: Label) -> Forgotten:
        """It keeps nothing."""
        del label
        return Forgotten()

    def stats(self) -> EngineStats:
        """Rows only."""
        return EngineStats(running=len(self._rows))

    def is_stalled(self) -> bool:
        """Never."""
        return False

    def stalled_for_s(self) -> float:
        """Its steps take no time."""
        return 0.0

    async def stop(self) -> None:
        """End the thread."""
        with self._wanted:
            self._is_open = False
            self._wanted.notify()
        await asyncio.to_thread(self._thread.join)

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait_for_work():
            self._busy()

    def _wait_for_work(self) -> bool:
        with self._wanted:
            self._wanted.wait_for(lambda: self._rows or not self._is_open)
            return self._is_open

    def _busy(self) -> None:
        begin, steps, sent = time.monotonic(), list[float](), dict[str, Sent]()
        while self._rows and self._is_open:
            due = begin + (len(steps) + 1) / self.steps_per_s
            time.sleep(max(0.0, due - time.monotonic()))
            outputs = self._step(len(steps), sent)
            steps.append(time.monotonic())
            self._loop.call_soon_threadsafe(self._sink, outputs)
        with self.log.open("ab") as log:
            log.write(msgspec.json.encode(Record(steps, sent)) + b"\n")

    def _step(self, number: int, sent: dict[str, Sent]) -> list[StepOutput]:
        outputs: list[StepOutput] = []
        with self._wanted:
            for attempt, row in list(self._rows.items()):
                if not row.ids:
                    row.first_step = number
                outputs.append((attempt, self._next(row)))
                if row.ids == row.request.sampling.max_new_tokens:
                    outputs.append((attempt, _finish(row)))
                    sent[row.request.request_id] = Sent(row.submitted, row.first_step, row.ids)
                    del self._rows[attempt]
        return outputs

    def _next(self, row: _Row) -> Tokens:
        start = row.ids
        row.ids += 1
        return Tokens(start=start, ids=[self.ids[start % len(self.ids)]], cached_tokens=None if start else 0)


def _finish(row: _Row) -> Finish:
    usage = Usage(prompt_tokens=len(row.request.prompt_ids), cached_tokens=0, output_tokens=row.ids)
    return Finish(reason=FinishReason.LENGTH, total=row.ids, usage=usage)


def visible_ids(tokenizer: ChatGLM3Tokenizer) -> list[int]:
    """Ids of which each is text by itself, the first one too: every id is an event of its own."""
    ids = tokenizer.encode_text(TEXT)
    return [i for i in ids if tokenizer.byte(i) is None and tokenizer.piece(i).strip("▁")]


def paced_engine(model_path: str) -> PacedEngine:
    """The engine of a benchmark, over the tokenizer of a checkpoint; its log is named by the environment."""
    ids = visible_ids(ChatGLM3Tokenizer.from_pretrained(model_path))
    return PacedEngine(ids, STEPS_PER_S, Path(os.environ[LOG_VARIABLE]))
