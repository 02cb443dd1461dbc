"""What a big page cache costs: a million cached pages against a thousand. ``python -m tests.benchmarks.bench_cache``.

Both caches are full, so every new page evicts one, and belong to many tenants of different weights. A round takes each
operation on both in turn, so that a noisy machine disturbs both alike; medians are printed per page, and of a whole
scheduler step without a model. A step may be at most a tenth slower: exit 1 if it is not so. ``--against FILE`` adds
the same operations of another ``block_manager.py`` (with a cache of a thousand pages).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from cluster.engine import block_manager
from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.protocol import GenerateRequest, SamplingParams
from tests.benchmarks.bench_scheduler import InstantRunner

FEW, MANY = 1000, 1_000_000
PAGE, LENGTH = 16, 64  # tokens of a page, pages of a conversation
ROWS, TENANTS = 32, 100
MAX_STEP_RATIO = 1.10


def fill(blocks: block_manager.BlockManager, num_pages: int, start: int = 0) -> None:
    """Cache ``num_pages`` pages of conversations, numbered from ``start``, that end one after another."""
    for i in range(start, start + -(-num_pages // LENGTH)):
        ids = array("i", range(i, i + LENGTH * PAGE))
        table = blocks.open(f"tenant-{i % TENANTS}")
        if blocks.grow(table, len(ids)):
            blocks.commit(table, ids, len(ids))
            blocks.release(table)


class Operations:
    """One cache of ``num_pages`` pages and the operations on it."""

    def __init__(self, num_pages: int, module: ModuleType = block_manager) -> None:
        self.blocks = module.BlockManager(num_pages=num_pages + 1, page_size=PAGE, model_id="bench")
        fill(self.blocks, num_pages)
        self._turn = num_pages

    def run(self) -> Iterator[tuple[str, float]]:
        """Names and seconds of the operations on a new conversation: its first turn, its second, its failure."""
        self._turn += 2
        blocks, ids = self.blocks, array("i", range(self._turn, self._turn + LENGTH * PAGE + 1))
        table = blocks.open(f"tenant-{self._turn % TENANTS}")
        yield "look up in vain", timed(lambda: blocks.extend(table, ids))
        yield "grow by evicting", timed(lambda: blocks.grow(table, LENGTH * PAGE))
        yield "grow by nothing", timed(lambda: blocks.grow(table, LENGTH * PAGE))
        yield "commit", timed(lambda: blocks.commit(table, ids, LENGTH * PAGE))
        yield "release", timed(lambda: blocks.release(table))
        yield "extend by cached", timed(lambda: blocks.extend(table, ids))
        yield "discard", timed(lambda: blocks.discard(table))
        fill(blocks, LENGTH, self._turn + 1)  # what was discarded left free pages


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Steps:
    """An engine that decodes ``ROWS`` rows beside ``num_pages`` cached pages."""

    def __init__(self, num_pages: int, max_steps: int) -> None:
        needed = ROWS * ((PAGE + ROWS + max_steps) // PAGE + 2)
        self.runner = InstantRunner(num_pages=1 + num_pages + needed)
        config = EngineConfig(
            model_id="bench", context_length=max_steps + 4096, vocab_size=65024, max_num_seqs=ROWS, page_size=PAGE
        )
        self.engine = Engine(self.runner, config)
        fill(self.engine.scheduler.blocks, num_pages + needed)
        for i in range(ROWS):  # of different lengths, so that rows do not ask for pages in the same step
            sampling = SamplingParams(max_new_tokens=max_steps, seed=i)
            ids = [60_000 + i] * (i + 1)
            self.engine.submit(
                GenerateRequest(
                    attempt=i, request_id="", tenant=f"tenant-{i % TENANTS}", prompt_ids=ids, sampling=sampling
                )
            )
        for _ in range(8):
            self.engine.step()

    def run(self, num_steps: int) -> Iterator[float]:
        """Host seconds of each step."""
        for _ in range(num_steps):
            yield timed(self.engine.step) - self.runner.seconds


def measure_operations(rounds: int, against: Path | None) -> dict[str, dict[str, float]]:
    """By operation and cache the median nanoseconds per page."""
    caches = {"few": Operations(FEW), "many": Operations(MANY)}
    if against is not None:
        caches["against"] = Operations(FEW, load(against))
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for name, cache in caches.items():
            for operation, taken in cache.run():
                seconds[operation][name].append(taken)
    return {
        operation: {name: statistics.median(taken) / LENGTH * 1e9 for name, taken in by_cache.items()}
        for operation, by_cache in seconds.items()
    }


def measure_steps(rounds: int) -> dict[str, float]:
    """By cache the median microseconds of a step."""
    caches = {"few": Steps(FEW, 32 * rounds + 64), "many": Steps(MANY, 32 * rounds + 64)}
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, cache in caches.items():
            seconds[name] += cache.run(32)
    return {name: statistics.median(taken) * 1e6 for name, taken in seconds.items()}


def load(path: Path) -> ModuleType:
    """Another block manager, from its file."""
    spec = importlib.util.spec_from_file_location("other_block_manager", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def show(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|")  # noqa: T201 -- the table is the output


def main() -> int:
    """Print two tables; exit 1 when a step is slowed down by more than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--against", type=Path)
    args = parser.parse_args()
    show("ns per page", FEW, MANY, "ratio", *(["other", f"{FEW} ÷ other"] if args.against else []))
    show(*["---"] * (6 if args.against else 4))
    for operation, ns in measure_operations(args.rounds, args.against).items():
        other = [f"{ns['against']:.0f}", f"{ns['few'] / ns['against']:.2f}"] if args.against else []
        show(operation, f"{ns['few']:.0f}", f"{ns['many']:.0f}", f"{ns['many'] / ns['few']:.2f}", *other)
    us = measure_steps(args.rounds)
    ratio = us["many"] / us["few"]
    show(f"step of {ROWS} rows, µs", f"{us['few']:.0f}", f"{us['many']:.0f}", f"{ratio:.2f}")
    return int(ratio > MAX_STEP_RATIO)


if __name__ == "__main__":
    sys.exit(main())
