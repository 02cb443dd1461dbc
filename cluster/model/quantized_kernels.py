"""Products of levels as they are, on CPUs: for bfloat16 with AVX-512, where they were measured to pay.

torch's kernels add up level products in float32 and scale the sums, so the full weight is never made nor rounded:
results are within bfloat16's rounding of those of the full weight. For float32 and float16 the same kernels are scalar
loops, slower than making the weight, and are not used (docs/benchmarks/quantization.md).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

# Above so many rows making the weight once is faster than products of levels.
MOST_ROWS: Final = 64

_GROUPS = (256, 128, 64, 32)  # columns that share a scale in the 4-bit kernel; all of ours have one, their row's
_BLOCK_ROWS = 16  # output rows that the kernels treat together; others crash them
_BLOCK_COLUMNS = 32
_ZERO = 8  # what the 4-bit kernel takes off each stored level
_IS_VECTORIZED: Final = torch.backends.cpu.get_cpu_capability() == "AVX512"


def has_level_kernels(width: int, out: int, scale: Tensor) -> bool:
    """Whether this CPU multiplies [., width] by levels [out, width] with ``scale`` [out]."""
    has_blocks = out % _BLOCK_ROWS == 0 and width % _BLOCK_COLUMNS == 0
    return _IS_VECTORIZED and has_blocks and scale.dtype is torch.bfloat16 and scale.device.type == "cpu"


def int8_product(x: Tensor, levels: Tensor, scale: Tensor) -> Tensor:
    """bfloat16 [T, in] times int8 levels [out, in] with ``scale`` [out] -> [T, out]; no gradient."""
    y: Tensor = torch._weight_int8pack_mm(x, levels, scale)  # noqa: SLF001 - public to torch's own tools
    return y


class Int4KernelLinear(nn.Module):
    """A linear of 4-bit levels in the kernel's own layout, of the same size: [T, in] -> [T, out], bfloat16."""

    def __init__(self, levels: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        out, width = levels.shape
        self._group = next(size for size in _GROUPS if width % size == 0)
        shifted = levels.to(torch.int32) + _ZERO
        self._levels = torch.ops.aten._convert_weight_to_int4pack_for_cpu(shifted, 2)  # noqa: SLF001 - as above
        scales = torch.zeros(width // self._group, out, 2, dtype=scale.dtype)
        scales[..., 0] = scale  # the other entry is an offset
        self._scales, self._bias = scales, bias

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]."""
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001 - as above
        y: Tensor = multiply(x, self._levels, self._group, self._scales)
        return y if self._bias is None else y.add_(self._bias)
