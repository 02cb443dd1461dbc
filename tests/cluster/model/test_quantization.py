"""Linears of 8 and 4 bits: what is kept, what is refused, and what a quantized checkpoint loads as."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cluster.errors import CheckpointError, ConfigurationError
from cluster.model.checkpoint import inspect_checkpoint
from cluster.model.loader import check_load, load_model, weight_bytes
from cluster.model.quantization import (
    QuantizedLinear,
    pack_nibbles,
    quantize_linears,
    quantized,
    unpack_nibbles,
)

TINY = Path(__file__).parents[2] / "parity" / "data" / "tiny"


def linear(width, out, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(width, out, bias=False, dtype=dtype).requires_grad_(requires_grad=False)


def stored_quantized(folder, bits, dtype=torch.float16):
    """A published-style checkpoint whose blocks' linears are quantized."""
    shutil.copytree(TINY, folder)
    model = load_model(TINY, dtype, "cpu", quantize=bits)
    save_file({name: tensor.data for name, tensor in model.named_parameters()}, folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text()) | {"quantization_bit": bits}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@given(st.lists(st.integers(-8, 7), min_size=2, max_size=40).filter(lambda row: len(row) % 2 == 0))
def test_nibbles_come_back_as_they_went_in(row):
    """Every value of four bits, in every place."""
    levels = torch.tensor([row, row[::-1]], dtype=torch.int8)
    assert torch.equal(levels, unpack_nibbles(pack_nibbles(levels)))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_is_kept_to_within_half_a_level(bits, dtype):
    """And the largest of a row sits on the outermost level, or beside it where the scale was rounded; never beyond."""
    weight = linear(96, 40, dtype).weight.data
    levels, scale = quantized(weight, bits)
    most = 2 ** (bits - 1) - 1
    assert set(levels.abs().amax(dim=1).tolist()) <= {most - 1, most}
    away = (levels.float() * scale.float()[:, None] - weight.float()).abs()
    assert (away <= 0.5 * scale.float()[:, None] + most * scale.float()[:, None] * torch.finfo(dtype).eps).all()


def test_a_row_too_small_for_a_scale_is_zeros() -> None:
    """Its scale is below the smallest float16."""
    levels, scale = quantized(torch.full((1, 4), 1e-6, dtype=torch.float16), 8)
    assert (scale.tolist(), levels.tolist()) == ([0.0], [[0, 0, 0, 0]])


@pytest.mark.parametrize("bits", [0, 1, 3, 16, True])
def test_an_unknown_number_of_bits_is_refused(bits):
    """There is no format for it; nothing of the module changes."""
    module = nn.Sequential(linear(8, 8))
    with pytest.raises(ConfigurationError, match="4 or 8 bits"):
        quantize_linears(module, bits)
    assert isinstance(module[0], nn.Linear)


def test_an_odd_number_of_columns_is_refused_for_four_bits_alone():
    """By name, before anything is replaced."""
    module = nn.ModuleDict({"even": linear(8, 8), "odd": linear(7, 8)})
    with pytest.raises(ConfigurationError, match="odd has 7 columns"):
        quantize_linears(module, 4)
    assert isinstance(module["even"], nn.Linear)
    quantize_linears(module, 8)
    assert isinstance(module["odd"], QuantizedLinear)


def test_other_bits_than_the_weights_have_are_refused():
    """Quantizing twice would lose twice; asking for the same again is no mistake."""
    module = nn.Sequential(linear(8, 8))
    quantize_linears(module, 8)
    quantize_linears(module, 8)
    with pytest.raises(ConfigurationError, match="already"):
        quantize_linears(module, 4)


def test_scales_keep_the_dtype_that_was_quantized_in():
    """Whatever the module is converted to, and wherever it goes."""
    made = QuantizedLinear.of(linear(8, 4, torch.float16), 8)
    before = made.weight_scale.clone()
    made.to(torch.bfloat16).float()
    assert made.weight.dtype is torch.int8
    assert torch.equal(made.weight_scale, before)
    assert made(torch.ones(2, 8)).dtype is torch.float32


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_quantized_checkpoint_is_the_model_it_was_made_from(bits, dtype, tmp_path):
    """Levels and scales as they are stored, in float16; the rest in the dtype asked for."""
    loaded = load_model(stored_quantized(tmp_path / "model", bits), dtype, "cpu")
    made = load_model(TINY, torch.float16, "cpu", quantize=bits)
    held = dict(loaded.named_parameters())
    assert loaded.config.quantization_bit == bits
    for name, tensor in made.named_parameters():
        assert torch.equal(held[name], tensor if "weight_scale" in name else tensor.to(held[name].dtype))
        assert held[name].dtype in {torch.int8, dtype if "weight_scale" not in name else torch.float16}


def test_a_quantized_checkpoint_takes_no_other_bits(tmp_path):
    """The same number again is what it has."""
    folder = stored_quantized(tmp_path / "model", 8)
    load_model(folder, torch.float32, "cpu", quantize=8)
    with pytest.raises(ConfigurationError, match="quantized to 8 bits"):
        load_model(folder, torch.float32, "cpu", quantize=4)


def test_a_configuration_that_promises_other_weights_is_refused(tmp_path):
    """Dense weights under quantization_bit, and levels of the other width."""
    folder = stored_quantized(tmp_path / "model", 8)
    shutil.copy(TINY / "model.safetensors", folder)
    with pytest.raises(CheckpointError, match=r"layers\.0\.\S+\.weight_scale' is missing, and 11 more"):
        load_model(folder, torch.float32, "cpu")
    other = stored_quantized(tmp_path / "other", 4)
    fields = json.loads((other / "config.json").read_text()) | {"quantization_bit": 8}
    (other / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"has shape .*config.json asks for"):
        load_model(other, torch.float32, "cpu")


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_memory_is_counted_as_it_is_taken(bits):
    """To the byte; levels by their bits."""
    model = load_model(TINY, torch.bfloat16, "cpu", quantize=bits)
    held = sum(tensor.nbytes for tensor in model.parameters())
    assert weight_bytes(check_load(TINY, quantize=bits), torch.bfloat16) == held


def test_a_quantized_checkpoint_is_described(tmp_path):
    """It can be served, and takes less memory than a dense one."""
    report = inspect_checkpoint(stored_quantized(tmp_path / "model", 4))
    assert report.problem == ""
    assert report.stored_dtypes == ("float16", "int8")
    assert report.weight_bytes["float16"] < inspect_checkpoint(TINY).weight_bytes["float16"]
