"""Kernels over levels compute what quantized linears do, and are taken only where they can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.model.packing import pack_linears
from cluster.model.quantization import QuantizedLinear
from cluster.model.quantized_kernels import MOST_ROWS, Int4KernelLinear, Int8KernelLinear, with_kernel

HAS_KERNELS = torch.backends.cpu.get_cpu_capability() == "AVX512"


def made(width, out, bits, *, dtype=torch.bfloat16, bias=True):
    torch.manual_seed(0)
    linear = nn.Linear(width, out, bias=bias, dtype=dtype).requires_grad_(requires_grad=False)
    return QuantizedLinear.of(linear, bits)


@pytest.mark.skipif(not HAS_KERNELS, reason="this CPU has no kernels for quantized weights")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [32, 96, 128, 1024])
@pytest.mark.parametrize(("bits", "kind"), [(8, Int8KernelLinear), (4, Int4KernelLinear)])
def test_results_are_within_rounding_of_the_exact_ones(bits, kind, width, bias):
    """For one row and for more than the kernel is used for; no further away than the plain linear is, but for one ulp."""
    plain = made(width, 48, bits, bias=bias)
    fast = with_kernel(plain)
    assert isinstance(fast, kind)
    for rows in (1, 7, MOST_ROWS + 1):
        x = torch.randn(rows, width).bfloat16()
        exact = nn.functional.linear(x.double(), plain.levels().double() * plain.weight_scale.double()[:, None])
        exact += plain.bias.double() if bias else 0
        ulp = exact.abs().max() * torch.finfo(torch.bfloat16).eps
        assert (fast(x).double() - exact).abs().max() <= (plain(x).double() - exact).abs().max() + ulp


@pytest.mark.parametrize(
    ("width", "out", "dtype"),
    [(48, 48, torch.bfloat16), (64, 40, torch.bfloat16), (64, 48, torch.float32), (64, 48, torch.float16)],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_other_shapes_and_dtypes_stay_as_they_are(bits, width, out, dtype):
    """The kernels would crash on them, or be slower."""
    plain = made(width, out, bits, dtype=dtype)
    assert with_kernel(plain) is plain


@pytest.mark.skipif(not HAS_KERNELS, reason="this CPU has no kernels for quantized weights")
def test_packing_a_model_takes_the_kernels():
    """In the place of each quantized linear."""
    module = nn.Sequential(made(64, 48, 8), nn.Sequential(made(64, 48, 4)))
    pack_linears(module)
    assert [type(part) for part in (module[0], module[1][0])] == [Int8KernelLinear, Int4KernelLinear]
