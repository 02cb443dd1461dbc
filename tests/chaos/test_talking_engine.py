"""The engine that talks: what it says depends on prompt and seed, and on nothing else unless it wavers."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.protocol import FinishReason, GenerateRequest, SamplingParams
from services.backend.local import LocalBackend
from tests.fakes.talking_engine import TalkingEngine, answer_to

VOCABULARY = range(100, 120)
EVEN, ODD = 8, 7  # attempts: of two, the even ones waver


def a_request(**changes: Any) -> GenerateRequest:
    sampling = SamplingParams(seed=changes.pop("seed", 1), max_new_tokens=changes.pop("tokens", 100))
    return GenerateRequest(
        **{"attempt": ODD, "request_id": "", "tenant": "t", "prompt_ids": [1, 2], **changes}, sampling=sampling
    )


def said(**changes: Any) -> list[int]:
    return answer_to(a_request(**changes), VOCABULARY, wavers=2)


def test_prompt_and_seed_make_the_answer() -> None:
    """Nothing else does, the attempt least of all."""
    assert said() == said(attempt=EVEN)
    assert said() != said(prompt_ids=[1, 3])
    assert said() != said(seed=2)


def test_an_answer_that_goes_on_is_the_same_answer() -> None:
    """From wherever it goes on."""
    assert said(output_ids=said()[:5]) == said()


def test_some_attempts_that_go_on_waver() -> None:
    """They keep what was said, and say something else from there."""
    other = said(output_ids=said()[:5], attempt=EVEN)
    assert other[:5] == said()[:5]
    assert other != said()


def test_the_limit_cuts_an_answer() -> None:
    """Ids of earlier attempts count."""
    assert said(tokens=7, output_ids=said()[:5]) == said()[:7]


@pytest.mark.parametrize(("tokens", "reason"), [(7, FinishReason.LENGTH), (100, FinishReason.STOP)])
async def test_it_tells_what_is_new_and_why_it_ends(tokens: int, reason: FinishReason) -> None:
    """One id a step, behind those that were told before."""
    backend = LocalBackend(TalkingEngine(VOCABULARY, steps_per_s=1000, wavers=0))
    await backend.start()
    request = a_request(tokens=tokens, output_ids=said()[:5])
    _, *told, finish = [event async for event in backend.stream(request)]
    await backend.stop()
    assert [i for event in told for i in event.ids] == said(tokens=tokens)[5:]  # type: ignore[union-attr]
    assert [event.start for event in told] == list(range(5, 5 + len(told)))  # type: ignore[union-attr]
    assert finish.reason is reason  # type: ignore[union-attr]
