"""Host time of one engine step by rows: schedule, plan, take the result; no model. ``python -m tests.benchmarks.bench_scheduler``.

The budget is 150 µs + 5 µs per row. Rows decode from a 1,000 token prompt, so that block tables have a real width; a
run takes the median step of each batch, and page boundaries (indexing a page costs a hash) fall into it as they do in
service.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.plan import StepPlan, StepResult
from cluster.protocol import GenerateRequest, SamplingParams

BUDGET_US, BUDGET_US_PER_ROW = 150.0, 5.0
PROMPT = 1000


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


def measure(rows: int, steps: int) -> list[float]:
    """Host µs of each of ``steps`` decode steps over ``rows`` rows, ``stats()`` included."""
    runner = InstantRunner(num_pages=1 + rows * ((PROMPT + steps + 64) // 16 + 2))
    config = EngineConfig(
        model_id="bench", context_length=8192, vocab_size=65024, max_num_seqs=rows, max_batched_tokens=8192
    )
    engine = Engine(runner, config)
    for i in range(rows):
        sampling = SamplingParams(max_new_tokens=steps + 64, seed=i)
        prompt = [(7 * j + i) % 60000 for j in range(PROMPT)]
        engine.submit(GenerateRequest(attempt=i, request_id="", tenant="t", prompt_ids=prompt, sampling=sampling))
    while engine.scheduler.waiting or any(seq.num_remaining > 1 for seq in engine.scheduler.running):
        engine.step()
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        engine.step()
        engine.stats()
        times.append((time.perf_counter() - begin - runner.seconds) * 1e6)
    return times


def main() -> int:
    """Print a table; exit 1 when a median is over the budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    is_over = False
    print("| rows | median µs | p99 µs | budget µs |\n|---|---|---|---|")  # noqa: T201 -- the table is the output
    for rows in (1, 4, 16, 64, 256):
        times = sorted(measure(rows, steps))
        median, budget = statistics.median(times), BUDGET_US + BUDGET_US_PER_ROW * rows
        is_over |= median > budget
        print(f"| {rows} | {median:.0f} | {times[int(len(times) * 0.99)]:.0f} | {budget:.0f} |")  # noqa: T201 -- as above
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
