"""Weight-only quantization of linears to 8 or 4 bits, on the published names, in plain torch on any device.

Symmetric, with one scale per output row; activations are never quantized. Everything up to the full weight is computed
in the dtype that was quantized from, which the scales keep for good: a float16 model has other levels than the same
model in float32, and still has them when its activations become float32. Four bits are stored two columns to a byte,
the even column in the upper half. Where the CPU has kernels for it, a few rows are multiplied by the levels themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from cluster.errors import ConfigurationError
from cluster.model.config import QUANTIZED_BITS
from cluster.model.quantized_kernels import MOST_ROWS, Int4KernelLinear, has_level_kernels, int8_product


def check_bits(bits: int) -> None:
    """Raise ConfigurationError for a number of bits that there is no format for."""
    if type(bits) is not int or bits not in QUANTIZED_BITS:  # not True either
        raise ConfigurationError(f"Weights can be quantized to 4 or 8 bits, not to {bits!r}.")


def quantized(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Levels and scales of a weight, a row at a time.

    Args:
        weight: [out, in] of a floating dtype, all finite.
        bits: 8 or 4.

    Returns:
        int8 levels [out, in] within ±127 or ±7, and scales [out] in the weight's dtype. A row of zeros has scale 0.
    """
    scale = weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
    levels = torch.round(weight / scale[:, None])  # halves to even; over 0 where a row is, or is too small for a scale
    return levels.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).to(torch.int8), scale


def pack_nibbles(levels: Tensor) -> Tensor:
    """Two levels of 4 bits to a byte: int8 [out, in] -> int8 [out, in / 2]."""
    return (levels[:, ::2] << 4) | (levels[:, 1::2] & 0xF)


def unpack_nibbles(stored: Tensor) -> Tensor:
    """The inverse of ``pack_nibbles``: int8 [out, in / 2] -> int8 [out, in]; the shifts extend the sign."""
    return torch.stack((stored >> 4, (stored << 4) >> 4), dim=2).flatten(1)


class QuantizedLinear(nn.Module):
    """Drop-in for ``nn.Linear`` in inference whose weight is kept as levels: [..., in] -> [..., out].

    Born without storage, as the model's linears are. The full weight exists only while many rows are multiplied by it,
    or while a gradient is wanted.

    Attributes:
        weight: int8 [out, in], or [out, in / 2] for 4 bits.
        weight_scale: [out]; ``to(dtype)`` of the module leaves its dtype alone.
        bias: [out], or None.

    Raises:
        ConfigurationError: the number of bits is unknown, or ``in`` is odd where two columns share a byte.
    """

    def __init__(self, width: int, out: int, bits: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        check_bits(bits)
        if bits == 4 and width % 2:
            raise ConfigurationError(f"A weight of {width} columns cannot be quantized to 4 bits; they must be even.")
        self.bits, self.in_features, self.out_features = bits, width, out
        self.weight = _frozen(torch.empty(out, width * bits // 8, dtype=torch.int8, device="meta"))
        self.weight_scale = _frozen(torch.empty(out, dtype=dtype, device="meta"))
        self.bias = _frozen(torch.empty(out, dtype=dtype, device="meta")) if bias else None

    @classmethod
    def of(cls, linear: nn.Linear, bits: int) -> QuantizedLinear:
        """The same linear, quantized; without storage where ``linear`` has none."""
        weight = linear.weight
        made = cls(linear.in_features, linear.out_features, bits, bias=linear.bias is not None, dtype=weight.dtype)
        made.bias = linear.bias
        if not weight.is_meta:
            made.set_weight(weight.data)
        return made

    def set_weight(self, weight: Tensor) -> None:
        """Quantize ``weight`` [out, in] and keep its levels and scales, on its device."""
        levels, scale = self.stored_form(weight)
        self.weight, self.weight_scale = _frozen(levels), _frozen(scale)

    def stored_form(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What ``weight`` and ``weight_scale`` hold of a weight [out, in] once it is quantized."""
        levels, scale = quantized(weight, self.bits)
        return (levels if self.bits == 8 else pack_nibbles(levels)), scale

    def levels(self) -> Tensor:
        """int8 [out, in]."""
        return self.weight.data if self.bits == 8 else unpack_nibbles(self.weight.data)

    def dequantized(self) -> Tensor:
        """The weight that is computed with, [out, in] in the scale's dtype."""
        scale = self.weight_scale
        return self.levels().to(scale.dtype).mul_(scale[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self._multiplies_levels(x):
            y = self._product_of_levels(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)
            return y if self.bias is None else y.add_(self.bias)
        return nn.functional.linear(x, self.dequantized().to(x.dtype), self.bias)

    def with_kernel(self) -> nn.Module:
        """The same linear on a kernel with a layout of its own where this CPU has one, else itself."""
        if self.bits == 4 and has_level_kernels(self.in_features, self.out_features, self.weight_scale):
            return Int4KernelLinear(self.levels(), self.weight_scale, self.bias)
        return self

    def _multiplies_levels(self, x: Tensor) -> bool:
        """Asked at every step: about 1 µs where levels are not multiplied, 2 where they are."""
        if x.dtype is not torch.bfloat16 or not 0 < x.numel() <= MOST_ROWS * self.in_features:
            return False
        if x.requires_grad and torch.is_grad_enabled():
            return False
        return has_level_kernels(self.in_features * self.bits // 8, self.out_features, self.weight_scale)

    def _product_of_levels(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]; of 4 bits as two products, of the even and of the odd columns."""
        stored, scale = self.weight.data, self.weight_scale.data
        if self.bits == 8:
            return int8_product(x, stored, scale)
        even = int8_product(x[:, ::2].contiguous(), stored >> 4, scale)
        return even.add_(int8_product(x[:, 1::2].contiguous(), (stored << 4) >> 4, scale))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's own
        scale = self.weight_scale.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        if self.weight_scale.dtype is not scale.dtype:
            self.weight_scale = _frozen(scale.to(self.weight_scale.device))
        return self


def quantize_linears(module: nn.Module, bits: int) -> None:
    """Replace every linear below ``module`` by a quantized one, in place; each full weight is freed as it goes.

    Linears that are quantized already stay as they are.

    Raises:
        ConfigurationError: see ``QuantizedLinear``; nothing was replaced.
    """
    _check_all(module, bits)
    _replace(module, bits)


def _check_all(module: nn.Module, bits: int) -> None:
    check_bits(bits)
    for name, child in module.named_modules():
        if isinstance(child, QuantizedLinear) and child.bits != bits:
            raise ConfigurationError(f"{name} is quantized to {child.bits} bits already and cannot be to {bits}.")
        if bits == 4 and isinstance(child, nn.Linear) and child.in_features % 2:
            raise ConfigurationError(f"{name} has {child.in_features} columns; 4 bits need an even number.")


def _replace(module: nn.Module, bits: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, QuantizedLinear.of(child, bits))
        else:
            _replace(child, bits)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
