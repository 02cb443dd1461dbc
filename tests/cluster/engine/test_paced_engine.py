"""The paced engine keeps the promises of an engine, so that what is measured with it is measured fairly."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cluster.engine.client import StepOutput
from cluster.protocol import Finish, GenerateRequest, SamplingParams, Tokens
from tests.fakes.paced_engine import PacedEngine, Record


def request(attempt: int, tokens: int) -> GenerateRequest:
    """A request for so many ids."""
    sampling = SamplingParams(max_new_tokens=tokens)
    return GenerateRequest(attempt=attempt, request_id=f"req_{attempt}", tenant="t", prompt_ids=[1], sampling=sampling)


async def test_every_row_gets_one_id_a_step_and_the_log_says_when(tmp_path: Path) -> None:
    """Two rows of different length: ids in order, one call a step, one record when both have ended."""
    steps: list[Sequence[StepOutput]] = []
    finished = asyncio.Event()

    def sink(outputs: Sequence[StepOutput]) -> None:
        steps.append(outputs)
        if sum(isinstance(output, Finish) for step in steps for _, output in step) == 2:
            finished.set()

    engine = PacedEngine([7, 8], 1000.0, tmp_path / "log")
    await engine.start(sink)
    await asyncio.gather(engine.submit(request(1, 3)), engine.submit(request(2, 5)))
    await finished.wait()
    await engine.stop()
    ids = [output.ids for step in steps for attempt, output in step if isinstance(output, Tokens) and attempt == 2]
    assert ids == [[7], [8], [7], [8], [7]]
    record = msgspec.json.decode((tmp_path / "log").read_bytes(), type=Record)
    assert record.requests["req_1"].ids == 3
    assert len(record.steps) == len(steps)
    assert all(
        record.requests[name].submitted <= record.steps[sent.first_step] for name, sent in record.requests.items()
    )


async def test_an_aborted_row_says_nothing_more(tmp_path: Path) -> None:
    """And the engine falls idle."""
    steps: list[Sequence[StepOutput]] = []
    engine = PacedEngine([7], 1000.0, tmp_path / "log")
    await engine.start(steps.append)
    await engine.submit(request(1, 1_000_000))
    await engine.abort(1)
    said = len(steps)
    await engine.stop()
    assert len(steps) - said <= 1
