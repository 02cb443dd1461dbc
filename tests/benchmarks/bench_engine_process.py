"""The engine in a thread against the engine in a process: ids per second, delay of an event, computing time, memory.

    python -m tests.benchmarks.bench_engine_process [--model FOLDER] [--rounds 3]

Each reading is taken by a fresh process that stands for a replica: its event loop takes every step's events and spends
``--loop-us`` on each row, as encoding and sending them does. Rounds of both kinds alternate; the table shows medians.
Without ``--model`` the runner computes nothing: flat out it shows what the engine's own Python can do beside the loop,
paced (``--step-ms``) the time from the end of a step to the call of the sink. That runner draws the time itself, in
microseconds, as the token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.client import EngineClient, StepOutput
from cluster.engine.config import EngineConfig
from cluster.engine.plan import StepPlan, StepResult
from cluster.engine.process.client import ProcessEngine
from cluster.engine.step_pace import StepWatch
from cluster.protocol import Finish, GenerateRequest, SamplingParams, Tokens

KINDS = ("thread", "process")
PROMPT = 100
WRAP_US = 2**31


class StampingRunner:
    """Draws the time, after the length of a step."""

    page_size = 16

    def __init__(self, rows: int, steps: int, step_s: float) -> None:
        self.num_pages = 1 + rows * ((PROMPT + steps) // self.page_size + 2)
        self._step_s = step_s

    def run(self, plan: StepPlan) -> StepResult:
        """See ``Runner``."""
        rows = len(plan.sampling.rows)
        if self._step_s:
            time.sleep(self._step_s)
        now = np.full(rows, now_us(), dtype=np.int32)
        return StepResult(token_ids=now, finite=np.ones(rows, dtype=np.bool_))


class StampingConfig(msgspec.Struct):
    """Of one reading."""

    rows: int
    steps: int
    step_s: float


def stamping_engine(data: bytes, watch: StepWatch) -> ThreadedEngine:
    """``Factory`` of the engine that computes nothing."""
    config = msgspec.json.decode(data, type=StampingConfig)
    limits = EngineConfig(
        model_id="bench", context_length=2**20, vocab_size=2**31 - 1, max_num_seqs=config.rows, max_batched_tokens=8192
    )
    return ThreadedEngine(lambda: StampingRunner(config.rows, config.steps, config.step_s), limits, watch=watch)


def now_us() -> int:
    """The same clock in all processes, cut to what a token id holds."""
    return time.monotonic_ns() // 1000 % WRAP_US


class Sink:
    """Counts ids, spends time on each row, and notes how late each step's events are."""

    def __init__(self, loop_us: float) -> None:
        self.ids = 0
        self.delays_us: list[int] = []
        self._open = 0
        self._loop_us = loop_us
        self._done = asyncio.Event()

    async def drive(self, engine: EngineClient, requests: list[GenerateRequest]) -> float:
        """Run the requests to their end; returns ids per second."""
        self._open, self.ids = len(requests), 0
        self.delays_us.clear()
        self._done.clear()
        begin = time.perf_counter()
        await asyncio.gather(*[engine.submit(request) for request in requests])
        await self._done.wait()
        return self.ids / (time.perf_counter() - begin)

    def __call__(self, outputs: Sequence[StepOutput]) -> None:
        arrived = now_us()
        for _, event in outputs:
            if isinstance(event, Finish):
                self._open -= 1
            elif isinstance(event, Tokens):
                self.ids += len(event.ids)
                stamp = event.ids[-1]
        if isinstance(outputs[0][1], Tokens):
            self.delays_us.append((arrived - stamp) % WRAP_US)
        until = time.perf_counter() + self._loop_us * 1e-6 * len(outputs)
        while time.perf_counter() < until:
            pass
        if not self._open:
            self._done.set()


def make_engine(kind: str, options: argparse.Namespace) -> EngineClient:
    """The engine of one reading."""
    if options.model:  # imported here: its memory is not that of a runner without a model
        from cluster.replica.config import ReplicaConfig
        from cluster.replica.engine import build_engine

        config = ReplicaConfig(options.model, "cpu", options.dtype, 1, None, engine_process=kind == "process")
        return build_engine(config)
    data = msgspec.json.encode(StampingConfig(options.rows, options.tokens, options.step_ms / 1000))
    if kind == "thread":
        return stamping_engine(data, StepWatch())
    return ProcessEngine("tests.benchmarks.bench_engine_process:stamping_engine", data, max_waiting=options.rows)


def make_requests(rows: int, tokens: int) -> list[GenerateRequest]:
    """One per row."""
    sampling = SamplingParams(max_new_tokens=tokens, temperature=0.0)
    return [
        GenerateRequest(
            attempt=i + 1,
            request_id="",
            tenant="t",
            prompt_ids=[(7 * j + i) % 900 for j in range(PROMPT)],
            sampling=sampling,
        )
        for i in range(rows)
    ]


async def read_once(options: argparse.Namespace) -> dict[str, float]:
    """One reading, after a short run that warms everything up."""
    engine, sink = make_engine(options.kind, options), Sink(options.loop_us)
    await engine.start(sink)
    await sink.drive(engine, make_requests(options.rows, 8))
    pids = {"replica": os.getpid()} | ({"engine": engine.pid or 0} if isinstance(engine, ProcessEngine) else {})
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    rate = await sink.drive(engine, make_requests(options.rows, options.tokens))
    cpu = {f"{name}_cpu_us": (cpu_s(pid) - before[name]) / sink.ids * 1e6 for name, pid in pids.items()}  # per id
    memory = {f"{name}_mib": pss_mib(pid) for name, pid in pids.items()}
    await engine.stop()
    delays = sorted(sink.delays_us)
    delay = {} if options.model else {"delay_us": delays[len(delays) // 2], "delay_p99_us": delays[-len(delays) // 100]}
    return {"rate": rate, **delay, **cpu, **memory}


def cpu_s(pid: int) -> float:
    """Seconds of computing time that a process has had, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mib(pid: int) -> float:
    """Proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def read(kind: str, arguments: list[str], **point: float) -> dict[str, float]:
    """One reading in a process of its own."""
    chosen = [f"--{name.replace('_', '-')}={value}" for name, value in point.items()]
    command = [sys.executable, "-m", "tests.benchmarks.bench_engine_process", f"--kind={kind}", *chosen, *arguments]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def compare(arguments: list[str], rounds: int, **point: float) -> None:
    """Print both kinds at one point, and the process's part of the thread's rate."""
    readings: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _, kind in product(range(rounds), KINDS):
        readings[kind].append(read(kind, arguments, **point))
    medians = {
        kind: {name: statistics.median(reading[name] for reading in taken) for name in taken[0]}
        for kind, taken in readings.items()
    }
    ratio = medians["process"]["rate"] / medians["thread"]["rate"]
    where = " ".join(f"{name}={value:g}" for name, value in point.items())
    lines = [f"{where}: rate process/thread {ratio:.2f}"]
    for kind, values in medians.items():
        lines.append(f"  {kind:8} " + " ".join(f"{name} {value:9.1f}" for name, value in values.items()))
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="checkpoint folder; none: a runner that computes nothing")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=0, help="of each answer; default 128 with a model, else 1000")
    point: Any = parser.add_argument_group("of one reading")
    point.add_argument("--kind", choices=KINDS)
    point.add_argument("--rows", type=int)
    point.add_argument("--step-ms", type=float, default=0.0)
    point.add_argument("--loop-us", type=float, default=20.0)
    options = parser.parse_args()
    options.tokens = options.tokens or (128 if options.model else 1000)
    return options


def main() -> None:
    """Take one reading, or all."""
    options = parse()
    if options.kind:
        sys.stdout.write(json.dumps(asyncio.run(read_once(options))))
        return
    arguments = [f"--model={options.model}", f"--dtype={options.dtype}"]
    for rows in options.streams:
        if options.model:
            compare(arguments, options.rounds, rows=rows, tokens=options.tokens, loop_us=20)
            continue
        for loop_us in (0, 20):
            compare(arguments, options.rounds, rows=rows, tokens=options.tokens, loop_us=loop_us)
        compare(arguments, options.rounds, rows=rows, tokens=100, step_ms=5, loop_us=20)


if __name__ == "__main__":
    main()
