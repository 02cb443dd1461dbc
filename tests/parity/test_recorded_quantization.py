"""Quantized weights are the recorded ones: levels and bytes exactly, products within rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cluster.model.loader import load_model
from cluster.model.quantization import QuantizedLinear, pack_nibbles, quantize_linears, quantized, unpack_nibbles
from cluster.tokenizer.template import chat_input_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from tests.parity.plain import plain_logits
from tests.parity.recorded import DATA, assert_close, load_json, load_tensors

CASES = load_json("quantization")["cases"]
ROUNDING = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}  # about two units in the last place of the products


@pytest.fixture(params=CASES, ids=lambda case: case["name"])
def case(request):
    """(bits, dtype, the recorded tensors of the case by their last word)."""
    name = request.param["name"]
    recorded = load_tensors("quantization")
    parts = {key.removeprefix(f"{name}_"): tensor for key, tensor in recorded.items() if key.startswith(f"{name}_")}
    shared = {key: recorded[key] for key in ("weight", "bias", "input")}
    return request.param["bits"], getattr(torch, request.param["dtype"]), parts | shared


def linear_of(weight, bias, dtype):
    linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype).requires_grad_(requires_grad=False)
    linear.weight.data, linear.bias.data = weight.to(dtype), bias.to(dtype)
    return linear


def test_levels_and_scales_are_the_recorded_ones(case):
    """Bit for bit, in every dtype."""
    bits, dtype, recorded = case
    levels, scale = quantized(recorded["weight"].to(dtype), bits)
    assert torch.equal(levels, recorded["levels"])
    assert torch.equal(scale, recorded["scale"])


def test_stored_bytes_and_the_weight_they_stand_for_are_the_recorded_ones(case):
    """Four bits share a byte, the even column in its upper half."""
    bits, dtype, recorded = case
    made = QuantizedLinear.of(linear_of(recorded["weight"], recorded["bias"], dtype), bits)
    assert torch.equal(made.weight, recorded["stored"])
    assert torch.equal(made.dequantized(), recorded["dequantized"])
    if bits == 4:
        assert torch.equal(unpack_nibbles(recorded["stored"]), recorded["levels"])
        assert torch.equal(pack_nibbles(recorded["levels"]), recorded["stored"])


def test_products_are_the_recorded_ones(case):
    """Input times weight plus bias, with activations as they are."""
    bits, dtype, recorded = case
    made = QuantizedLinear.of(linear_of(recorded["weight"], recorded["bias"], dtype), bits)
    name = str(dtype).removeprefix("torch.")
    assert_close(made(recorded["input"].to(dtype)).float(), recorded["output"], ROUNDING[name])


def test_a_row_of_zeros_is_zeros_again():
    """Its scale is 0, and 0 / 0 is no number; the other rows do not notice."""
    recorded = load_json("quantization")["all_zero_row"]
    weight = torch.tensor([[0.0] * 4, [1.0, 0.5, -1.0, 0.25]], dtype=torch.float16)
    levels, scale = quantized(weight, 8)
    assert levels[0].tolist() == recorded["level_after_cast_cpu"]
    assert scale.tolist() == recorded["scale"]
    assert levels[1].tolist() == [127, 64, -127, 32]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_quantized_from_float16_gives_the_recorded_float32_logits(bits):
    """The scales stay float16 when the rest becomes float32."""
    ids = chat_input_ids(ChatGLM3Tokenizer.from_pretrained(DATA / "tiny"), "Hello, how are you today?", [])
    model = load_model(DATA / "tiny", torch.float32, "cpu")
    for name, linear in list(model.transformer.encoder.named_modules()):
        if isinstance(linear, nn.Linear):
            owner, _, leaf = name.rpartition(".")
            made = QuantizedLinear.of(copy.deepcopy(linear).half(), bits).float()
            made.bias = linear.bias
            setattr(model.transformer.encoder.get_submodule(owner), leaf, made)
    assert_close(plain_logits(model, ids), load_tensors("quantized_model_tiny")[f"logits_int{bits}"])


def test_quantizing_on_load_and_afterwards_is_the_same():
    """One by one as they come in, or all at the end."""
    loaded = load_model(DATA / "tiny", torch.bfloat16, "cpu", quantize=4)
    later = load_model(DATA / "tiny", torch.bfloat16, "cpu")
    quantize_linears(later.transformer.encoder, 4)
    first, second = (dict(model.named_parameters()) for model in (loaded, later))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
