"""Kernels over levels compute what quantized linears do, and are taken only where they can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.model.packing import pack_linears
from cluster.model.quantization import QuantizedLinear
from cluster.model.quantized_kernels import MOST_ROWS, Int4KernelLinear, has_level_kernels

HAS_KERNELS = torch.backends.cpu.get_cpu_capability() == "AVX512"
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="this CPU has no kernels for quantized weights")


def made(width, out, bits, *, dtype=torch.bfloat16, bias=True):
    torch.manual_seed(0)
    linear = nn.Linear(width, out, bias=bias, dtype=dtype).requires_grad_(requires_grad=False)
    return QuantizedLinear.of(linear, bits)


def full(linear, x):
    """By the full weight, made and rounded."""
    return nn.functional.linear(x, linear.dequantized().to(x.dtype), linear.bias)


def exact(linear, x):
    """In float64, from the levels."""
    weight = linear.levels().double() * linear.weight_scale.double()[:, None]
    return nn.functional.linear(x.double(), weight, None if linear.bias is None else linear.bias.double())


@needs_kernels
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [32, 64, 96, 128, 1024])
@pytest.mark.parametrize("rows", [(1,), (7,), (MOST_ROWS + 1,), (2, 3)])
@pytest.mark.parametrize(("bits", "is_packed"), [(8, False), (4, False), (4, True)])
def test_results_are_within_rounding_of_the_exact_ones(bits, is_packed, rows, width, bias):
    """For one row, several and more than the kernel is used for; no further away than by the full weight, but for 2 ulp."""
    linear = made(width, 48, bits, bias=bias)
    x = torch.randn(*rows, width).bfloat16()
    results = linear.with_kernel()(x.flatten(0, -2)).view(*rows, 48) if is_packed else linear(x)
    wanted = exact(linear, x)
    ulp = wanted.abs().max() * torch.finfo(torch.bfloat16).eps
    assert (results.double() - wanted).abs().max() <= (full(linear, x).double() - wanted).abs().max() + 2 * ulp


@needs_kernels
@pytest.mark.parametrize("bits", [8, 4])
def test_few_rows_never_make_the_full_weight(bits, monkeypatch):
    """Many do, once."""
    linear = made(64, 48, bits)
    monkeypatch.setattr(QuantizedLinear, "dequantized", lambda _self: pytest.fail("made"))
    linear(torch.randn(MOST_ROWS, 64).bfloat16())
    with pytest.raises(pytest.fail.Exception):
        linear(torch.randn(MOST_ROWS + 1, 64).bfloat16())


@pytest.mark.parametrize("bits", [8, 4])
def test_a_gradient_reaches_the_input(bits):
    """The kernels have none, so a differentiated row goes by the full weight."""
    linear = made(64, 48, bits)
    x = torch.randn(2, 64).bfloat16().requires_grad_()
    linear(x).sum().backward()
    wanted = linear.dequantized().float().sum(dim=0).expand(2, -1)
    torch.testing.assert_close(x.grad.float(), wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("width", "out", "dtype"),
    [(48, 48, torch.bfloat16), (64, 40, torch.bfloat16), (64, 48, torch.float32), (64, 48, torch.float16)],
)
def test_the_kernels_refuse_other_shapes_and_dtypes(width, out, dtype):
    """They would crash on them, or be slower."""
    assert not has_level_kernels(width, out, torch.ones(out, dtype=dtype))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("width", "out"), [(48, 48), (64, 40), (48, 40)])
def test_other_shapes_go_by_the_full_weight(bits, width, out):
    """To the bit."""
    linear = made(width, out, bits)
    x = torch.randn(3, width).bfloat16()
    assert torch.equal(linear(x), full(linear, x))
    assert linear.with_kernel() is linear


@needs_kernels
def test_packing_a_model_takes_the_kernels_own_layout():
    """Where there is one, which is for 4 bits."""
    module = nn.Sequential(made(64, 48, 8), nn.Sequential(made(64, 48, 4)))
    pack_linears(module)
    assert [type(part) for part in (module[0], module[1][0])] == [QuantizedLinear, Int4KernelLinear]
