"""The served path (paged cache, packed weights) computes the published model's logits."""

from __future__ import annotations

import pytest
import torch

from cluster.model.attention import ContiguousAttention
from cluster.model.loader import load_model
from cluster.model.rotary import rotary_table
from tests.fakes.stepping import Feed, Held
from tests.parity.recorded import (
    DATA,
    MODELS,
    assert_close,
    load_json,
    load_tensors,
    logits_cases,
    logits_of,
    stepper,
)


def named(cases):
    return [pytest.param(*case, id=f"{case[0]}-{case[1]['key']}") for case in cases]


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("full")))
def test_whole_prompts_give_the_recorded_logits(model, case, expected):
    """Every position of a prompt computed at once."""
    logits = logits_of(stepper(model), [Feed(Held(), case["input_ids"])])
    assert_close(logits, expected)
    assert logits.argmax(-1).tolist() == case["argmax"]


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("full_with_position_offset")))
def test_shifted_positions_give_the_recorded_logits(model, case, expected):
    """Rotary positions are the caller's, not the cache's; up to the end of the long context."""
    logits = logits_of(stepper(model), [Feed(Held(), case["input_ids"], position=case["position_offset"])])
    assert_close(logits[-len(expected) :], expected)
    assert logits.argmax(-1).tolist() == case["argmax"]


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("second_chunk_logits")))
def test_a_prompt_in_two_chunks_gives_the_recorded_logits(model, case, expected):
    """The second chunk attends to the first through the pages."""
    steps, held, first = stepper(model), Held(), case["first_chunk"]
    logits_of(steps, [Feed(held, case["input_ids"][:first])])
    assert_close(logits_of(steps, [Feed(held, case["input_ids"][first:])]), expected)


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("step_by_step_greedy_ignoring_stops")))
def test_decoding_step_by_step_gives_the_recorded_logits_and_ids(model, case, expected):
    """Row k holds the logits before the k-th generated id."""
    steps, held, fed = stepper(model), Held(), case["prompt_ids"]
    for logits, token in zip(expected, case["generated"], strict=True):
        actual = logits_of(steps, [Feed(held, fed)])[-1]
        assert_close(actual, logits)
        assert token == actual.argmax()
        fed = [token]
    assert case["cache_shape_per_layer"][0] == held.length


@pytest.mark.parametrize(("model", "case", "expected"), named(logits_cases("left_padded_batch_last_position")))
def test_rows_of_different_lengths_in_one_step_give_the_recorded_logits(model, case, expected):
    """What the published model pads to a batch stands here without padding."""
    rows = [
        [token for token, is_real in zip(ids, mask, strict=True) if is_real]
        for ids, mask in zip(case["input_ids"], case["attention_mask"], strict=True)
    ]
    logits = logits_of(stepper(model), [Feed(Held(), row) for row in rows])
    ends = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
    assert_close(logits[ends], expected)
    assert logits[ends].argmax(-1).tolist() == case["argmax"]


def test_hidden_states_and_cache_are_the_recorded_ones():
    """Embeddings, every block's output, the final norm, and the rotated keys and values left behind."""
    recorded = load_tensors("logits_tiny")
    [case] = [case for case in load_json("logits_tiny")["cases"] if case["key"] == "hidden_*"]
    model, cache, seen = load_model(DATA / "tiny", torch.float32, "cpu"), ContiguousAttention(), []
    blocks = model.transformer.encoder.layers
    for block in blocks:
        block.register_forward_hook(lambda _, given, made: seen.append((given[1], made)))
    ids = torch.tensor(case["input_ids"])
    with torch.inference_mode():
        hidden = model(ids, torch.arange(len(ids)), cache)
        normed = model.transformer.encoder.final_layernorm(hidden)
    assert_close(seen[0][0], recorded["hidden_0"])
    for layer, (_, made) in enumerate(seen):
        assert_close(made, recorded[f"hidden_{layer + 1}"])
        assert_close(cache.key_value[layer][:, 0], recorded[f"cache_k_{layer}"])
        assert_close(cache.key_value[layer][:, 1], recorded[f"cache_v_{layer}"])
    assert_close(normed, recorded["hidden_final_normed"])
    assert len(seen) == len(blocks) == 3


def test_pages_hold_the_recorded_cache():
    """The pool's pages, read in block-table order, are the published model's cache."""
    recorded = load_tensors("logits_tiny")
    [case] = [case for case in load_json("logits_tiny")["cases"] if case["key"] == "hidden_*"]
    steps, held = stepper("tiny"), Held()
    logits_of(steps, [Feed(held, case["input_ids"])])
    pages = steps.runner.pool.pages[held.pages]  # [pages, L, 2, page_size, G, D]
    for layer in range(3):
        for place, name in enumerate(("k", "v")):
            assert_close(pages[:, layer, place].flatten(0, 1), recorded[f"cache_{name}_{layer}"])


@pytest.mark.parametrize(
    ("name", "head_dim", "ratio", "dtype"),
    [
        ("base", 16, 1.0, torch.float32),
        ("base", 16, 1.0, torch.bfloat16),
        ("base", 16, 1.0, torch.float16),
        ("ratio50", 16, 50.0, torch.float32),
        ("ratio50", 16, 50.0, torch.bfloat16),
        ("ratio50", 16, 50.0, torch.float16),
        ("real_dims", 128, 1.0, torch.float32),
        ("real_dims", 128, 1.0, torch.float16),
    ],
)
def test_rotary_tables_are_the_recorded_ones(name, head_dim, ratio, dtype):
    """Bit for bit in half precision (rounded from float32), within an ulp of a trigonometric library in float32."""
    recorded = load_tensors("rope_tables")
    key = f"{name}_{str(dtype).removeprefix('torch.')}"
    positions = recorded[f"{name}_positions"]
    table = rotary_table(int(positions.max()) + 1, head_dim, ratio, dtype, torch.device("cpu"))[positions]
    assert_close(torch.view_as_real(table), recorded[key], 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.3), (torch.float16, 0.05)])
def test_half_precision_stays_near_the_recorded_float32_and_half_logits(dtype, tolerance):
    """Half precision differs by rounding only: about twice the published model's own distance from float32."""
    recorded = load_tensors("precision_tiny")
    name = str(dtype).removeprefix("torch.")
    cases = [case for case in load_json("precision_tiny")["cases"] if case["key"].startswith(name)]
    for case in cases:
        logits = logits_of(stepper("tiny", dtype), [Feed(Held(), case["input_ids"])])
        exact = logits_of(stepper("tiny"), [Feed(Held(), case["input_ids"])])
        assert_close(logits[-4:], recorded[case["key"]], tolerance)
        assert_close(logits[-4:], exact[-4:], tolerance)
    assert len(cases) == 2


def test_sharded_float16_files_upcast_to_the_recorded_logits():
    """The original layout: two torch shards behind an index, computed in float32."""
    [case] = [case for case in load_json("precision_tiny")["cases"] if case["key"] == "tinybin_as_float32"]
    logits = logits_of(stepper("tiny-bin"), [Feed(Held(), case["input_ids"])])
    assert_close(logits, load_tensors("precision_tiny")["tinybin_as_float32"])


def test_both_checkpoints_are_covered():
    """A renamed folder cannot silently shrink the comparison."""
    assert {model for model, _, _ in logits_cases("full")} == set(MODELS)
