"""Packed linears compute what plain ones do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.model.packing import PackedLinear, can_pack, pack_linears

CPU = torch.device("cpu")


def linear(dtype, *, bias):
    torch.manual_seed(0)
    return nn.Linear(96, 40, bias=bias, dtype=dtype).requires_grad_(requires_grad=False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_results_are_those_of_a_plain_linear(dtype, tolerance, bias):
    """For one row and for many, with and without a bias."""
    if not can_pack(dtype, CPU):
        pytest.skip("this CPU has no packed kernels for the dtype")
    plain = linear(dtype, bias=bias)
    packed = PackedLinear(plain)
    for rows in (1, 5, 70):
        x = torch.randn(rows, 96).to(dtype)
        torch.testing.assert_close(packed(x), plain(x), rtol=tolerance, atol=tolerance)


def test_float32_can_always_be_packed_where_onednn_is():
    """The default precision on CPU is never left slow; other devices keep their own layouts."""
    assert can_pack(torch.float32, CPU)
    assert not can_pack(torch.float32, torch.device("cuda"))


def test_every_linear_below_a_module_is_replaced():
    """At any depth; other modules stay."""
    module = nn.Sequential(
        linear(torch.float32, bias=True), nn.Sequential(nn.ReLU(), linear(torch.float32, bias=False))
    )
    pack_linears(module)
    assert [type(part) for part in (module[0], module[1][0], module[1][1])] == [PackedLinear, nn.ReLU, PackedLinear]
