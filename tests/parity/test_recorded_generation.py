"""Greedy answers through the runner are the published model's, id for id."""

from __future__ import annotations

import pytest

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.protocol import GenerateRequest, SamplingParams, Tokens
from tests.fakes.stepping import Feed, Held
from tests.parity.recorded import greedy, load_json, stepper


def cases(*, batched: bool = False, penalized: bool = False):
    """Recorded generations without beams: (checkpoint, case, stop ids)."""
    found = []
    for model, name in (("tiny", "generate_tiny"), ("tiny-32k", "generate_tiny_32k")):
        recorded = load_json(name)
        stops = set(load_json("generate_tiny")["eos_token_id"])
        for number, case in enumerate(recorded["cases"]):
            has_beams, has_penalty = "num_beams" in case["args"], "repetition_penalty" in case["args"]
            if not has_beams and has_penalty == penalized and (len(case["input_ids"]) > 1) == batched:
                found.append(pytest.param(model, case, stops, id=f"{model}-{number}"))
    assert found
    return found


@pytest.mark.parametrize(("model", "case", "stops"), cases())
def test_greedy_answers_are_the_recorded_ids(model, case, stops):
    """One sequence, one token per step."""
    [prompt], [expected] = case["input_ids"], case["sequences"]
    assert expected == greedy(stepper(model), prompt, stops, case["max_length"] - len(prompt))


@pytest.mark.parametrize(("model", "case", "stops"), cases(batched=True))
def test_sequences_decoding_together_give_the_recorded_ids(model, case, stops):
    """Rows of different lengths share steps, finish at different times, and do not disturb each other."""
    steps = stepper(model)
    width, padding = len(case["input_ids"][0]), 0
    prompts = [[token for token in ids if token != padding] for ids in case["input_ids"]]
    answers = [[] for _ in prompts]
    running = {row: (Held(), prompt) for row, prompt in enumerate(prompts)}
    while running:
        drawn = steps.step([Feed(held, fed) for held, fed in running.values()]).token_ids.tolist()
        for (row, (held, _)), token in zip(list(running.items()), drawn, strict=True):
            answers[row].append(token)
            running[row] = (held, [token])
            if token in stops or width + len(answers[row]) == case["max_length"]:
                steps.release(held)
                del running[row]
    longest = max(map(len, answers))
    assert case["sequences"] == [answer + [padding] * (longest - len(answer)) for answer in answers]


@pytest.mark.parametrize(("model", "case", "stops"), cases(penalized=True))
def test_penalized_answers_are_the_recorded_ids(model, case, stops):
    """The engine applies the repetition penalty to prompt and output, and leaves the stop id out of the answer."""
    [prompt], [expected] = case["input_ids"], case["sequences"]
    sampling = SamplingParams(
        temperature=0.0,
        repetition_penalty=case["args"]["repetition_penalty"],
        max_new_tokens=case["max_length"] - len(prompt),
        stop_ids=tuple(stops),
    )
    runner = stepper(model).runner
    config = EngineConfig(model_id=model, context_length=1024, vocab_size=832, page_size=runner.page_size)
    engine, answer = Engine(runner, config), []
    engine.submit(GenerateRequest(attempt=1, request_id="", tenant="t", prompt_ids=prompt, sampling=sampling))
    while engine.has_work:
        for _, event in engine.step():
            answer += event.ids if isinstance(event, Tokens) else []
    assert answer == [token for token in expected if token not in stops]
