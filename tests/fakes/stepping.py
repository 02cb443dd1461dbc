"""A scheduler of a few lines: feeds chosen tokens of chosen sequences to a runner, one engine step per call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.engine.plan import Runner, SamplingColumns, StepPlan, StepResult


@dataclass(eq=False)
class Held:
    """One sequence's place in the cache: its pages and how many tokens they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class Feed:
    """Tokens to compute for one sequence, and how to draw after them (``draw`` False: no draw).

    ``position`` is the rotary position of the first token; None continues at the sequence's length.
    """

    held: Held
    token_ids: Sequence[int]
    draw: bool = True
    position: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    uniform: float = 0.5


class Stepper:
    """Allocates pages (never page 0) in an order that ``scatter`` shuffles, and runs steps."""

    def __init__(self, runner: Runner, *, scatter: int = 0) -> None:
        self.runner = runner
        self.free = list(range(1, runner.num_pages))
        np.random.default_rng(scatter).shuffle(self.free)

    def release(self, held: Held) -> None:
        """Give a sequence's pages back; the next sequence takes them first."""
        self.free += held.pages
        held.pages, held.length = [], 0

    def step(self, feeds: Sequence[Feed]) -> StepResult:
        """Run one step; the result is aligned with the feeds that draw. Feeds of one token must come first."""
        plan = self.plan(feeds)
        result = self.runner.run(plan)
        for feed in feeds:
            feed.held.length += len(feed.token_ids)
        return result

    def plan(self, feeds: Sequence[Feed]) -> StepPlan:
        """The step as the runner wants it; allocates the pages it writes."""
        counts = [len(feed.token_ids) for feed in feeds]
        starts = [feed.held.length for feed in feeds]
        firsts = [start if feed.position is None else feed.position for feed, start in zip(feeds, starts, strict=True)]
        for feed, count in zip(feeds, counts, strict=True):
            self._grow(feed.held, feed.held.length + count)
        return StepPlan(
            token_ids=np.concatenate([np.asarray(feed.token_ids, np.int32) for feed in feeds]),
            positions=_runs(firsts, counts, np.int32),
            slots=np.concatenate([self._slots(feed.held, count) for feed, count in zip(feeds, counts, strict=True)]),
            cu_q=np.cumsum([0, *counts]).astype(np.int32),
            kv_lens=np.array([start + count for start, count in zip(starts, counts, strict=True)], np.int32),
            block_tables=_padded([feed.held.pages for feed in feeds]),
            num_decodes=_leading_ones(counts),
            sampling=_columns(feeds),
        )

    def _grow(self, held: Held, length: int) -> None:
        while len(held.pages) * self.runner.page_size < length:
            held.pages.append(self.free.pop())

    def _slots(self, held: Held, count: int) -> np.ndarray:
        tokens = np.arange(held.length, held.length + count)
        size = self.runner.page_size
        return (np.asarray(held.pages)[tokens // size] * size + tokens % size).astype(np.int64)


def _runs(firsts: list[int], counts: list[int], dtype: type) -> np.ndarray:
    return np.concatenate(
        [np.arange(first, first + count) for first, count in zip(firsts, counts, strict=True)]
    ).astype(dtype)


def _padded(tables: list[list[int]]) -> np.ndarray:
    padded = np.zeros((len(tables), max(map(len, tables))), np.int32)
    for row, pages in zip(padded, tables, strict=True):
        row[: len(pages)] = pages
    return padded


def _leading_ones(counts: list[int]) -> int:
    ones = next((index for index, count in enumerate(counts) if count != 1), len(counts))
    assert 1 not in counts[ones:], "decode rows come first"
    return ones


def _columns(feeds: Sequence[Feed]) -> SamplingColumns:
    drawing = [(row, feed) for row, feed in enumerate(feeds) if feed.draw]
    return SamplingColumns(
        rows=np.array([row for row, _ in drawing], np.int32),
        temperature=np.array([feed.temperature for _, feed in drawing], np.float32),
        top_p=np.array([feed.top_p for _, feed in drawing], np.float32),
        top_k=np.array([feed.top_k for _, feed in drawing], np.int32),
        uniform=np.array([feed.uniform for _, feed in drawing], np.float64),
    )
