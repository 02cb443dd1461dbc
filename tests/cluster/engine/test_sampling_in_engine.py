"""Penalties, bans, guides and logprobs reach the draws they belong to, however an answer was computed."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.engine import Engine
from cluster.errors import InvalidRequestError
from cluster.protocol import Finish, FinishReason, GenerateRequest, Logprobs, Tokens
from tests.fakes.engine_driver import CONFIG, NAN_TOKEN, EngineDriver, make_request
from tests.fakes.fake_runner import FakeRunner, expected_output
from tests.fakes.scripted_guide import ScriptedGuide

FREE = set(range(50))

requests = st.builds(
    lambda fields, prompt, seed: asking(1, prompt, seed=seed, **fields),
    fields=st.fixed_dictionaries(
        {
            "max_new_tokens": st.integers(1, 20),
            "repetition_penalty": st.sampled_from([1.0, 1.25]),
            "presence_penalty": st.sampled_from([0.0, 0.5]),
            "frequency_penalty": st.sampled_from([0.0, -0.25]),
            "logit_bias": st.sampled_from([{}, {7: 1.5}]),
            "bad_words": st.sampled_from([(), tuple((i, j) for i in range(0, 50, 5) for j in range(10)), ((3,),)]),
            "min_new_tokens": st.integers(0, 1),
            "stop_ids": st.sampled_from([(), tuple(range(5))]),
        }
    ),
    prompt=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    seed=st.integers(0, 99),
)


def asking(attempt: int, prompt: list[int], output_ids: list[int] | None = None, **fields: object) -> GenerateRequest:
    request = make_request(attempt, prompt, output_ids=output_ids)
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, **fields))


def events_of(request: GenerateRequest, guide: ScriptedGuide | None = None) -> list[Tokens | Finish]:
    """All events of a request alone in an engine."""
    engine = Engine(FakeRunner(nan_token=NAN_TOKEN), CONFIG)
    engine.submit(request, guide)
    events = []
    while engine.has_work:
        events += [event for _, event in engine.step()]
    engine.scheduler.debug_check()
    return events


def ids_of(events: list[Tokens | Finish]) -> list[int]:
    return [token_id for event in events if isinstance(event, Tokens) for token_id in event.ids]


@settings(max_examples=20)
@given(several=st.lists(requests, min_size=1, max_size=5), budget=st.integers(5, 20))
def test_company_chunks_and_preemption_change_no_answer(several: list[GenerateRequest], budget: int) -> None:
    """The driver compares every answer with the definition; few pages force preemptions."""
    batch = [msgspec.structs.replace(request, attempt=i) for i, request in enumerate(several)]
    EngineDriver(replace(CONFIG, max_batched_tokens=budget), num_pages=18).run(*batch)


def test_preemption_really_happens_to_answers_with_penalties() -> None:
    """Two answers that do not fit together: one loses its pages, and neither an id."""
    driver = EngineDriver(num_pages=9)
    both = [asking(i, [i] * 8, max_new_tokens=16, repetition_penalty=1.5, frequency_penalty=0.5) for i in (1, 2)]
    driver.run(*both)
    assert driver.engine.stats().preemptions > 0


@settings(max_examples=20)
@given(request_=requests, data=st.data())
def test_a_moved_answer_goes_on_with_the_same_ids(request_: GenerateRequest, data: st.DataObject) -> None:
    """Counts, prefixes of bad words and the minimum length include what an earlier attempt emitted."""
    whole = expected_output(request_)
    emitted = whole[: data.draw(st.integers(0, len(whole)))]
    moved = msgspec.structs.replace(request_, output_ids=emitted)
    assert EngineDriver().run(moved) == [whole]


def test_a_guide_sees_each_id_and_holds_the_answer() -> None:
    """Its mask decides what may come, and what came is what it accepted; a stop id ends the answer."""
    guide = ScriptedGuide([{4, 5}, {11}, {40, 41, 42}], stop_ids=(2,))
    events = events_of(asking(1, [9], stop_ids=(2,)), guide)
    assert guide.accepted == ids_of(events)
    assert len(guide.accepted) == 3
    assert isinstance(events[-1], Finish)
    assert events[-1].reason is FinishReason.STOP


def test_a_guided_answer_without_stop_ids_ends_with_its_structure() -> None:
    """Nothing is left to draw, because all is said."""
    *_, finish = events_of(asking(1, [9]), ScriptedGuide([{4}, {5}]))
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.error, finish.total) == (FinishReason.STOP, "", 2)


def test_a_moved_guided_answer_goes_on_in_its_structure() -> None:
    """The guide is fed what was emitted elsewhere."""
    guide = ScriptedGuide([{4}, {5}, {6}])
    assert ids_of(events_of(asking(1, [9], output_ids=[4, 5]), guide)) == [6]


def test_a_moved_answer_that_breaks_its_structure_is_refused_and_leaves_no_trace() -> None:
    """The engine is as before, and serves others."""
    engine = Engine(FakeRunner(), CONFIG)
    with pytest.raises(InvalidRequestError):
        engine.submit(asking(1, [9], output_ids=[5]), ScriptedGuide([{4}, {5}]))
    assert not engine.has_work
    assert engine.attempts == []


@pytest.mark.parametrize(
    ("fields", "guide"),
    [
        ({"bad_words": tuple((i,) for i in range(50))}, None),
        ({"bad_words": ((4,), (5,))}, ScriptedGuide([{30}, {4, 5}])),
        ({}, ScriptedGuide([{30}, set()])),
    ],
    ids=["all ids are bad words", "bad words take what the structure allows", "a structure that cannot go on"],
)
def test_an_answer_with_nothing_left_to_draw_fails_alone(
    fields: dict[str, object], guide: ScriptedGuide | None
) -> None:
    """It has an error of its own, and its neighbour every id."""
    driver = EngineDriver()
    neighbour = asking(2, [3, 4], presence_penalty=1.0)
    driver.submit(neighbour)
    driver.engine.submit(asking(1, [9], **fields), guide)
    finishes = {}
    while driver.engine.has_work:
        for attempt, event in driver.engine.step():
            if attempt == 2 and isinstance(event, Tokens):
                driver.ids[2] += event.ids
            elif isinstance(event, Finish):
                finishes[attempt] = event
    assert (finishes[1].reason, finishes[1].error) == (FinishReason.FAILED, "nothing_allowed")
    assert finishes[2].reason is FinishReason.LENGTH
    assert driver.ids[2] == expected_output(neighbour)


def test_broken_numbers_are_told_as_such_also_where_nothing_is_allowed() -> None:
    """NaN is the model's fault, not the request's."""
    *_, finish = events_of(asking(1, [NAN_TOKEN]), ScriptedGuide([set()]))
    assert isinstance(finish, Finish)
    assert finish.error == "non_finite_logits"


class DeafGuide(ScriptedGuide):
    """Refuses what its mask allows."""

    def accept(self, token_id: int) -> bool:
        return False


def test_a_guide_that_contradicts_its_mask_ends_the_answer() -> None:
    """Better no answer than one whose structure nobody vouches for."""
    *tokens, finish = events_of(asking(1, [9]), DeafGuide([FREE]))
    assert isinstance(finish, Finish)
    assert (tokens, finish.error) == ([], "structure_broken")


def test_logprobs_come_with_their_ids() -> None:
    """Each id has its own entry, with as many alternatives as were asked for; other answers have none."""
    driver = EngineDriver()
    driver.submit(asking(1, [1, 2], logprobs=3))
    driver.submit(asking(2, [3, 4]))
    driver.submit(asking(3, [5, 6], logprobs=0))
    events = [output for _ in range(4) for output in driver.step()]
    for attempt, event in events:
        assert isinstance(event, Tokens)
        [token_id] = event.ids
        drawn = -float(token_id)
        expected = {
            1: [Logprobs(drawn=drawn, top_ids=[0, 1, 2], top=[0.0, -1.0, -2.0])],
            2: None,
            3: [Logprobs(drawn=drawn)],
        }
        assert event.logprobs == expected[attempt]
    assert {attempt for attempt, _ in events} == {1, 2, 3}
