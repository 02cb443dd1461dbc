"""Linears on CPU with their weights in oneDNN's blocked layout.

A decode step reads every weight once; in the blocked layout that goes two to four times as fast as from rows, and for
float32 a row's result does not depend on how many other rows are in the batch (plain float32 products differ in the
last bits). A packed model computes and nothing else: its weights cannot be read back, saved or trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cluster.model.quantization import QuantizedLinear

# Stable since torch 2.0 as what torch.compile emits for frozen CPU models, though not documented.
_OPS = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """Drop-in for ``nn.Linear`` in inference, over flat tokens: [T, in] -> [T, out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        held = dict(linear.named_parameters())
        self._weight = _OPS._reorder_linear_weight(held["weight"].data)  # noqa: SLF001  # see _OPS
        self._bias = held["bias"].data if "bias" in held else None
        self._compute = _OPS._linear_pointwise.default  # noqa: SLF001  # see _OPS

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]."""
        y: Tensor = self._compute(x, self._weight, self._bias, "none", [], "")
        return y


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this machine's CPU has kernels for packed weights of ``dtype``."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own
        return False
    if dtype is torch.bfloat16:
        return bool(_OPS._is_mkldnn_bf16_supported())  # noqa: SLF001  # see _OPS
    if dtype is torch.float16:
        return bool(_OPS._is_mkldnn_fp16_supported())  # noqa: SLF001  # see _OPS
    return dtype is torch.float32


def pack_linears(module: nn.Module) -> None:
    """Replace every linear below ``module`` by a packed one, in place; each plain weight is freed as it goes.

    Quantized ones go on a kernel of their own, where there is one.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
        elif isinstance(child, QuantizedLinear):
            setattr(module, name, child.with_kernel())
        else:
            pack_linears(child)
