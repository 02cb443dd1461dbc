"""``forward`` and ``generate`` of the library shell compute what the published model was recorded to."""

from __future__ import annotations

import pytest
import torch

from cluster.errors import ToolCallError
from cluster.model.generation.config import CACHE
from cluster.model.generation.guard import InvalidScoreGuard, RowGuard
from cluster.model.generation.pick import Sampling, probabilities
from cluster.tokenizer.responses import process_response
from tests.parity.recorded import assert_close, load_json, load_tensors, logits_cases
from tests.parity.shell import shell


def named(cases):
    return [pytest.param(*case, id=f"{case[0]}-{case[1]['key']}") for case in cases]


def forward(model, ids, **given):
    with torch.inference_mode():
        return shell(model)(torch.tensor([ids]), **given)


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("full")))
def test_whole_prompts_give_the_recorded_logits(model, case, expected):
    """Every position at once."""
    logits = forward(model, case["input_ids"]).logits[0]
    assert_close(logits, expected)
    assert logits.argmax(-1).tolist() == case["argmax"]


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("full_with_position_offset")))
def test_given_positions_are_the_rotary_rows(model, case, expected):
    """Up to the end of the long context."""
    ids, start = case["input_ids"], case["position_offset"]
    positions = torch.arange(start, start + len(ids))[None]
    logits = forward(model, ids, position_ids=positions, logits_to_keep=len(expected)).logits[0]
    assert_close(logits, expected)


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("left_padded_batch_last_position")))
def test_left_padded_batches_give_the_recorded_logits(model, case, expected):
    """Mask alone, as positions follow from it."""
    with torch.inference_mode():
        logits = shell(model)(
            torch.tensor(case["input_ids"]), attention_mask=torch.tensor(case["attention_mask"]), logits_to_keep=1
        ).logits[:, 0]
    assert_close(logits, expected)


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("second_chunk_logits")))
def test_a_second_chunk_sees_the_first(model, case, expected):
    """Positions go on from the cache without being told."""
    ids, first = case["input_ids"], case["first_chunk"]
    past = forward(model, ids[:first])[CACHE]
    assert_close(forward(model, ids[first:], past_key_values=past).logits[0], expected)


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("step_by_step_greedy_ignoring_stops")))
def test_step_by_step_gives_the_recorded_logits(model, case, expected):
    """One token at a time over a growing cache."""
    past, fed = None, case["prompt_ids"]
    for logits, token in zip(expected, case["generated"], strict=True):
        made = forward(model, fed, past_key_values=past, logits_to_keep=1)
        assert_close(made.logits[0, 0], logits)
        past, fed = made[CACHE], [token]


def test_hidden_states_are_the_recorded_ones():
    """Embeddings first, the last block's output last, before the final norm."""
    recorded = load_tensors("logits_tiny")
    [case] = [case for case in load_json("logits_tiny")["cases"] if case["key"] == "hidden_*"]
    made = forward("tiny", case["input_ids"], output_hidden_states=True)
    assert len(made.hidden_states) == 4
    for layer, hidden in enumerate(made.hidden_states):
        assert_close(hidden[0], recorded[f"hidden_{layer}"])
    for layer, held in enumerate(made[CACHE].layers):
        assert_close(held.keys[0].transpose(0, 1), recorded[f"cache_k_{layer}"])
        assert_close(held.values[0].transpose(0, 1), recorded[f"cache_v_{layer}"])


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.3), ("float16", 0.05)])
def test_half_precision_stays_near_the_recorded_logits(dtype, tolerance):
    """Rounding is all that differs."""
    cases = [case for case in load_json("precision_tiny")["cases"] if case["key"].startswith(dtype)]
    for case in cases:
        with torch.inference_mode():
            logits = shell("tiny", dtype)(torch.tensor([case["input_ids"]])).logits[0, -4:]
        assert_close(logits.float(), load_tensors("precision_tiny")[case["key"]], tolerance)
    assert len(cases) == 2


def test_sharded_bin_files_upcast_to_the_recorded_logits():
    """The original layout through ``from_pretrained``."""
    [case] = [case for case in load_json("precision_tiny")["cases"] if case["key"] == "tinybin_as_float32"]
    assert_close(forward("tiny-bin", case["input_ids"]).logits[0], load_tensors("precision_tiny")["tinybin_as_float32"])


GENERATED = [
    pytest.param(model, case, id=f"{model}-{number}")
    for model, name in (("tiny", "generate_tiny"), ("tiny-32k", "generate_tiny_32k"))
    for number, case in enumerate(load_json(name)["cases"])
]


@pytest.mark.parametrize(("model", "case"), GENERATED)
def test_generate_gives_the_recorded_sequences(model, case):
    """Greedy, batches, penalties, beams, several returned beams, length penalties."""
    ids = torch.tensor(case["input_ids"])
    made = shell(model).generate(
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        max_length=case["max_length"],
        eos_token_id=load_json("generate_tiny")["eos_token_id"],
        return_dict_in_generate=True,
        output_scores=True,
        **case["args"],
    )
    assert made.sequences[:, ids.shape[1] :].tolist() == case["sequences"]
    if "sequences_scores" in case:
        assert_close(made.sequences_scores, torch.tensor(case["sequences_scores"]))


def numbers(rows):
    return torch.tensor([[float(value) for value in row] for row in rows])


@pytest.mark.parametrize("case", [case for case in load_json("invalid_scores").values() if isinstance(case, dict)])
def test_the_published_guard_is_the_recorded_one(case):
    """One bad score, and the whole batch is forced."""
    assert InvalidScoreGuard()(None, numbers(case["in"])).tolist() == case["out"]


def test_a_failed_row_leaves_the_others_alone():
    """Only the row with the NaN is forced, and a forbidden id is no failure."""
    scores = numbers([[1, 2, float("-inf"), 4, 5, 6, 7], [1, "nan", 3, 4, 5, 6, 7]])
    guarded = RowGuard()(None, scores)
    assert guarded[0].tolist() == scores[0].tolist()
    assert guarded[1].tolist() == [0, 0, 0, 0, 0, 5e4, 0]


@pytest.mark.parametrize("case", load_json("sampling")["cases"], ids=lambda case: str(case["key"]))
def test_filters_give_the_recorded_probabilities(case):
    """Temperature, top-k (50 unless given), top-p."""
    recorded, given = load_tensors("sampling"), case["kwargs"]
    how = Sampling(temperature=given["temperature"], top_k=given.get("top_k", 50), top_p=given["top_p"])
    made = probabilities(torch.zeros(1, 0), recorded[f"logits_{case['key']}"][None], how)[0]
    assert_close(made, recorded[f"probs_{case['key']}"], 1e-6)
    assert made.nonzero().flatten().tolist() == case["kept_ids"]


RESPONSES = load_json("process_response")
OTHERWISE = {"tool_arith", "tool_dict_literal", "tool_plain_string", "tool_kwargs_unpack", "hex_and_bytes"}  # evaluated
BETTER = {"tool_json_bool": {"a": True}, "tool_json_null": {"a": None}, "tool_trailing_newline": {"a": 1}}


def plain(value):
    """JSON's values: what was recorded as a tuple or a set is a list."""
    if isinstance(value, dict):
        if "__python_repr__" in value:
            return sorted(eval(value["__python_repr__"]))  # noqa: S307  # the test's own data
        return {key: plain(held) for key, held in value.items()}
    return [plain(held) for held in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", RESPONSES["cases"], ids=lambda case: case["name"])
def test_responses_are_read_as_recorded(case):
    """Contents and histories; what had to be evaluated, or failed, is refused or read as data."""
    history = RESPONSES["histories"][case["history_kind"]]
    if case["name"] in BETTER:
        assert process_response(case["output"], history)[0] == {"name": "f", "parameters": BETTER[case["name"]]}
    elif "error_type" in case or case["name"] in OTHERWISE:
        with pytest.raises(ToolCallError):
            process_response(case["output"], history)
    else:
        content, after = process_response(case["output"], history)
        assert content == plain(case["content"])
        assert after == [*history, *case["history_added"]]
