"""What was forgotten stays in memory until it is overwritten, and nobody reads it before.

A page is not wiped: it is free, so it stands in no block table, and whoever gets it next reads only slots that it has
written itself. So an answer must be the same to the last bit whatever the free pages hold.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cluster.engine.attention import kv_pool
from cluster.engine.config import EngineConfig
from cluster.engine.deterministic import DeterministicRunner
from cluster.engine.engine import Engine
from cluster.engine.native import runner as native
from cluster.engine.runner import ModelRunner
from cluster.engine.threads import num_threads
from cluster.protocol import Forgotten, GenerateRequest, Label, SamplingParams, Tokens
from tests.support.native import native_runner
from tests.support.random_model import SHAPE, random_model

PAGE, PAGES = 4, 40
SECRET, OTHER = list(range(40, 81)), list(range(7, 29))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that sums have one order."""
    with num_threads(1):
        yield


def make_engine(kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, Tensor]:
    """An engine with an empty cache, and its pages as the runner has them."""
    pools: list[kv_pool.KVPool] = []

    def allocate(*args: object) -> kv_pool.KVPool:
        pools.append(kv_pool.allocate_pool(*args))
        return pools[-1]

    if kind == "native":
        monkeypatch.setattr(native, "allocate_pool", allocate)
        runner = native_runner(num_pages=PAGES, page_size=PAGE)
    else:
        make = DeterministicRunner if kind == "deterministic" else ModelRunner
        runner = make(random_model(torch.float32), num_pages=PAGES, page_size=PAGE)
        pools.append(runner.pool)
    config = EngineConfig(
        model_id="m", context_length=SHAPE.seq_length, vocab_size=SHAPE.padded_vocab_size, page_size=PAGE
    )
    return Engine(runner, config), pools[-1].pages


def answer(engine: Engine, ids: list[int], pin_key: str) -> list[tuple[int, float]]:
    """The ids of a long answer, each with the logarithm of its probability."""
    sampling = SamplingParams(temperature=0, max_new_tokens=24, logprobs=0)
    engine.submit(
        GenerateRequest(attempt=1, request_id="", tenant="a", prompt_ids=ids, sampling=sampling, pin_key=pin_key)
    )
    drawn: list[tuple[int, float]] = []
    while engine.has_work:
        for _, event in engine.step():
            if isinstance(event, Tokens):
                assert event.logprobs is not None
                drawn += zip(event.ids, [one.drawn for one in event.logprobs], strict=True)
    return drawn


@pytest.mark.parametrize("kind", ["model", "deterministic", "native"])
def test_nobody_reads_what_was_forgotten(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another conversation gets the same answer on pages that never held anything, on the forgotten ones, and on junk."""
    engine, _ = make_engine(kind, monkeypatch)
    clean = answer(engine, OTHER, "y")
    engine, pages = make_engine(kind, monkeypatch)
    answer(engine, SECRET, "x")
    used = pages.flatten(1).any(1)
    num_pages = (len(SECRET) + 24 - 1) // PAGE
    assert engine.forget(Label(tenant="a", pin_key="x")) == Forgotten(dropped=num_pages)
    assert engine.scheduler.blocks.num_available == PAGES - 1
    assert bool(used[1 : num_pages + 1].all()), "the pages were not written"
    assert torch.equal(pages.flatten(1).any(1), used), "the pages were wiped: then this test can be simpler"
    assert answer(engine, OTHER, "y") == clean
    for junk in (3e4, torch.inf, torch.nan):
        engine.forget(Label(tenant="a", pin_key="y"))
        pages[1:] = junk
        assert answer(engine, OTHER, "y") == clean, f"{junk} was read"
