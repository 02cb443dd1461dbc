"""Weights are packed while a stream decodes, and are plain again for whoever reads them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.model.generation import packable
from cluster.model.generation.packable import PackableLinear, make_packable, pack
from cluster.model.packing import can_pack
from tests.parity.recorded import DATA
from tests.parity.shell import shell, tokenizer

CPU = torch.device("cpu")
needs_kernel = pytest.mark.skipif(not can_pack(torch.float32, CPU), reason="this CPU has no packed kernel")
pytestmark = needs_kernel
READERS = {
    "weight": lambda linear: linear.weight,
    "state_dict": lambda linear: linear.state_dict()["weight"],
    "parameters": lambda linear: next(iter(linear.parameters())),
    "to": lambda linear: linear.to(torch.float32).weight,
    "deepcopy": lambda linear: copy.deepcopy(linear).weight,
    "pickle": lambda linear: pickle.loads(pickle.dumps(linear)).weight,  # noqa: S301  # our own bytes
}


def packed_linear(dtype=torch.float32):
    """A packed linear with a bias, and its weight."""
    owner = nn.Sequential(nn.Linear(512, 300, dtype=dtype, device="meta"))
    make_packable(owner)
    linear, weight = owner[0], torch.randn(300, 512, dtype=dtype)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.bias = nn.Parameter(torch.randn(300, dtype=dtype), requires_grad=False)
    pack(owner)
    assert isinstance(linear, PackableLinear)
    return linear, weight.clone()


def is_packed(linear):
    return linear._parameters.packed is not None


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whoever_reads_a_packed_weight_gets_its_bits(read):
    """Unpacked in place."""
    linear, weight = packed_linear()
    assert is_packed(linear)
    assert torch.equal(read(linear), weight)
    assert not is_packed(linear)


def test_a_packed_linear_computes_the_same_and_has_a_gradient():
    """For any shape; a gradient of the input goes through the plain weight."""
    linear, weight = packed_linear()
    x = torch.randn(2, 3, 512)
    torch.testing.assert_close(linear(x), nn.functional.linear(x, weight, linear.bias), rtol=0, atol=1e-4)
    assert is_packed(linear)
    linear(x.requires_grad_()).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(2, 3, -1), rtol=0, atol=1e-4)


def test_a_new_weight_replaces_a_packed_one():
    """By assignment and by loading."""
    linear, weight = packed_linear()
    linear.weight = nn.Parameter(weight + 1, requires_grad=False)
    assert torch.equal(linear.weight, weight + 1)
    pack(linear)
    linear.load_state_dict({"weight": weight, "bias": linear.bias})
    assert torch.equal(linear.weight, weight)


def test_a_weight_in_training_or_without_a_kernel_stays_plain():
    """An optimizer holds the one; the other has nothing to be packed for."""
    linear, _ = packed_linear()
    linear.weight.requires_grad_()
    pack(linear)
    assert not is_packed(linear)
    double, _ = packed_linear(torch.float64)
    assert not is_packed(double)


def test_a_stream_packs_and_saving_unpacks(monkeypatch, tmp_path):
    """The answer, the saved bits, and a model quantized afterwards are those of a model that was never packed."""
    plain = shell("tiny")  # before anything is packable
    monkeypatch.setattr(packable, "LEAST", 1)
    model = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny")
    given = {"do_sample": False, "max_new_tokens": 8}
    streamed = list(model.stream_chat(tokenizer(), "Hello", **given))
    assert is_packed(model.transformer.output_layer)
    assert is_packed(model.transformer.encoder.layers[2].mlp.dense_4h_to_h)
    assert streamed == list(plain.stream_chat(tokenizer(), "Hello", **given))
    generated = model.generate(torch.tensor([[821, 823, 300]]), **given)
    assert is_packed(model.transformer.output_layer)
    assert generated.tolist() == plain.generate(torch.tensor([[821, 823, 300]]), **given).tolist()
    model.save_pretrained(tmp_path)
    again = ChatGLM3ForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], held) for name, held in plain.state_dict().items())
    list(model.stream_chat(tokenizer(), "Hello", **given))
    quantized = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny").quantize(8).state_dict()
    assert all(torch.equal(quantized[name], held) for name, held in model.quantize(8).state_dict().items())


def test_small_weights_are_left_alone():
    """A packed product costs more than it saves there."""
    model = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny")
    list(model.stream_chat(tokenizer(), "Hello", do_sample=False, max_new_tokens=3))
    assert not any(isinstance(module, PackableLinear) for module in model.modules())
