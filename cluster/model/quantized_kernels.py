"""Quantized linears on CPUs that multiply levels as they are: for bfloat16 with AVX-512, where it was measured to pay.

torch's kernels add up level products in float32 and scale the sums, so the full weight is never made nor rounded:
results are within bfloat16's rounding of ``QuantizedLinear``'s, and nearer to the exact ones. For float32 and float16
the same kernels are scalar loops, slower than making the weight, and are not used (docs/benchmarks/quantization.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cluster.model.quantization import QuantizedLinear

# Above so many rows making the weight once is faster than 8-bit products; 4-bit levels cannot be taken back.
MOST_ROWS = 64

_GROUPS = (256, 128, 64, 32)  # columns that share a scale in the 4-bit kernel; all of ours have one, their row's
_BLOCK_ROWS = 16  # output rows that the kernels treat together; others crash them
_BLOCK_COLUMNS = 32
_ZERO = 8  # what the 4-bit kernel takes off each stored level


class Int8KernelLinear(nn.Module):
    """Takes over an 8-bit linear's levels: [T, in] -> [T, out], bfloat16."""

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        self._linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]."""
        linear = self._linear
        if len(x) > MOST_ROWS:
            y: Tensor = linear(x)
            return y
        y = torch._weight_int8pack_mm(x, linear.weight, linear.weight_scale)  # noqa: SLF001 - public to torch's own tools
        return y if linear.bias is None else y.add_(linear.bias)


class Int4KernelLinear(nn.Module):
    """A 4-bit linear in the kernel's own layout, of the same size: [T, in] -> [T, out], bfloat16."""

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        width, out = linear.in_features, linear.out_features
        self._group = next(size for size in _GROUPS if width % size == 0)
        shifted = linear.levels().to(torch.int32) + _ZERO
        self._levels = torch.ops.aten._convert_weight_to_int4pack_for_cpu(shifted, 2)  # noqa: SLF001 - as above
        scales = torch.zeros(width // self._group, out, 2, dtype=linear.weight_scale.dtype)
        scales[..., 0] = linear.weight_scale  # the other entry is an offset
        self._scales, self._bias = scales, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]."""
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001 - as above
        y: Tensor = multiply(x, self._levels, self._group, self._scales)
        return y if self._bias is None else y.add_(self._bias)


def with_kernel(linear: QuantizedLinear) -> nn.Module:
    """The linear on its kernel where there is one for it on this CPU, else itself."""
    has_blocks = linear.out_features % _BLOCK_ROWS == 0 and linear.in_features % _BLOCK_COLUMNS == 0
    is_vectorized = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (has_blocks and is_vectorized and linear.weight_scale.dtype is torch.bfloat16):
        return linear
    return Int8KernelLinear(linear) if linear.bits == 8 else Int4KernelLinear(linear)
