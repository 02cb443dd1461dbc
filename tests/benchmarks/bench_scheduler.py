"""Host time of one engine step by rows: schedule, plan, take the result; no model. ``python -m tests.benchmarks.bench_scheduler``.

The budget is 150 µs + 5 µs per row. Rows decode from a 1,000 token prompt, so that block tables have a real width; a
run takes the median step of each batch, and page boundaries (indexing a page costs a hash) fall into it as they do in
service. The same with 10,000 requests in the queue, of one tenant and of 1,000: no step may take 10 % longer.
``--plot FILE`` draws the first table.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.plan import StepPlan, StepResult
from cluster.protocol import GenerateRequest, SamplingParams

BUDGET_US, BUDGET_US_PER_ROW = 150.0, 5.0
ROWS = (1, 4, 16, 64, 256)
PROMPT = 1000
WAITING, QUEUE_RATIO = 10_000, 1.1


class InstantRunner:
    """Draws token 1 in no time; notes how long it took, which is not the host's work."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.page_size = 16
        self.seconds = 0.0

    def run(self, plan: StepPlan) -> StepResult:
        begin = time.perf_counter()
        rows = len(plan.sampling.rows)
        result = StepResult(token_ids=np.ones(rows, dtype=np.int32), finite=np.ones(rows, dtype=np.bool_))
        self.seconds = time.perf_counter() - begin
        return result


def measure(rows: int, steps: int, *, waiting: int = 0, tenants: int = 1) -> list[float]:
    """Host µs of each of ``steps`` decode steps over ``rows`` rows, ``stats()`` included; ``waiting`` more are queued."""
    runner = InstantRunner(num_pages=1 + rows * ((PROMPT + steps + 64) // 16 + 2))
    config = EngineConfig(
        model_id="bench",
        context_length=8192,
        vocab_size=65024,
        max_num_seqs=rows,
        max_batched_tokens=8192,
        max_prefill_while_decoding=8192,
        max_waiting=max(waiting, rows),
        max_wait_s=math.inf,
    )
    engine = Engine(runner, config)
    for i in range(rows):
        engine.submit(_request(i, f"t{i % tenants}", steps + 64))
    while engine.scheduler.waiting or any(seq.num_remaining > 1 for seq in engine.scheduler.running):
        engine.step()
    for i in range(rows, rows + waiting):
        engine.submit(_request(i, f"t{i % tenants}", 64))
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        engine.step()
        engine.stats()
        times.append((time.perf_counter() - begin - runner.seconds) * 1e6)
    assert len(engine.scheduler.waiting) == waiting, "the queue did not stay"
    return times


def _request(i: int, tenant: str, max_new_tokens: int) -> GenerateRequest:
    sampling = SamplingParams(max_new_tokens=max_new_tokens, seed=i)
    prompt = [(7 * j + i) % 60000 for j in range(PROMPT)]
    return GenerateRequest(
        attempt=i, request_id="", tenant=tenant, prompt_ids=prompt, sampling=sampling, deadline_s=3600.0
    )


def measure_queue(rows: int, steps: int, *, tenants: int, rounds: int = 3) -> tuple[float, float]:
    """Median µs of a step without a queue and with 10,000 waiting, of interleaved rounds."""
    empty, full = [], []
    for _ in range(rounds):
        empty.append(statistics.median(measure(rows, steps, tenants=tenants)))
        full.append(statistics.median(measure(rows, steps, waiting=WAITING, tenants=tenants)))
    return statistics.median(empty), statistics.median(full)


def main() -> int:
    """Print two tables; exit 1 when a median is over the budget, or a queue slows steps by more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    return int(_report_rows(options.steps, options.plot) | _report_queue(options.steps))


def _report_rows(steps: int, plot: Path | None) -> bool:
    is_over, medians, p99s = False, [], []
    print("| rows | median µs | p99 µs | budget µs |\n|---|---|---|---|")  # noqa: T201 -- the table is the output
    for rows in ROWS:
        times = sorted(measure(rows, steps))
        medians.append(statistics.median(times))
        p99s.append(times[int(len(times) * 0.99)])
        is_over |= medians[-1] > budget(rows)
        print(f"| {rows} | {medians[-1]:.0f} | {p99s[-1]:.0f} | {budget(rows):.0f} |")  # noqa: T201 -- as above
    if plot:
        _draw(plot, medians, p99s)
    return is_over


def budget(rows: int) -> float:
    """What a step may take, in µs."""
    return BUDGET_US + BUDGET_US_PER_ROW * rows


def _draw(file: Path, medians: list[float], p99s: list[float]) -> None:
    """Step cost by rows; equal numbers give equal bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": file.name}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for name, values, style in (
            ("p99", p99s, "o-"),
            ("median", medians, "o-"),
            ("budget", map(budget, ROWS), "--"),
        ):
            axes.plot(ROWS, list(values), style, label=name)
        axes.set(xlabel="rows", ylabel="host µs per step", xscale="log", yscale="log")
        axes.set_xticks(ROWS, [str(rows) for rows in ROWS])
        axes.grid(alpha=0.3, which="both")
        axes.legend()
        figure.savefig(file, metadata={"Date": None})


def _report_queue(steps: int) -> bool:
    is_over = False
    print(f"\n| rows | tenants | µs, nobody waits | µs, {WAITING} wait | ratio |\n|---|---|---|---|---|")  # noqa: T201 -- as above
    for rows, tenants in ((16, 1), (64, 1), (64, 1000), (256, 1000)):
        empty, full = measure_queue(rows, steps, tenants=tenants)
        is_over |= full > QUEUE_RATIO * empty
        print(f"| {rows} | {tenants} | {empty:.0f} | {full:.0f} | {full / empty:.3f} |")  # noqa: T201 -- as above
    return is_over


if __name__ == "__main__":
    sys.exit(main())
