"""Linears whose weight turns into oneDNN's blocked layout for decoding on a CPU, and back for whoever asks for it.

A decode step reads every weight once; from the blocked layout that goes up to four times as fast as from rows. The two
never stand side by side, so memory stays as it was: a weight is packed when a stream decodes, and becomes plain again,
bit for bit, as soon as anything reads the module's parameters (``state_dict``, ``to``, ``quantize``, ``linear.weight``
…). A tensor that somebody took out earlier is a copy from then on, not the model's memory.
"""

from __future__ import annotations

from collections.abc import ItemsView, ValuesView
from threading import Lock
from typing import Any, Final

import torch
from torch import Tensor, nn

from cluster.model.packing import can_pack

LEAST: Final = 1 << 17  # elements of a weight from which packing was measured to pay (docs/benchmarks/library.md)

_WEIGHT: Final = "weight"
_OPS = torch.ops.mkldnn  # see cluster.model.packing
_LOCK: Final = Lock()  # streams of several threads may share a model


class PackableLinear(nn.Linear):
    """``nn.Linear`` whose parameters are ``Parameters``. Born without storage."""

    _parameters: Parameters

    def __init__(self, linear: nn.Linear) -> None:
        has_bias = linear.bias is not None
        dtype = linear.weight.dtype
        super().__init__(linear.in_features, linear.out_features, bias=has_bias, dtype=dtype, device="meta")
        self._parameters = Parameters(self._parameters)
        self.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        packed = self._parameters.packed
        if packed is None or (x.requires_grad and torch.is_grad_enabled()):  # the packed kernel has no gradient
            return nn.functional.linear(x, self.weight, self.bias)
        y: Tensor = _OPS._linear_pointwise.default(x, packed, self.bias, "none", [], "")  # noqa: SLF001  # see _OPS
        return y

    def pack(self) -> None:
        """Pack the weight where that can be done: on a CPU that has a kernel, not offloaded, not in training."""
        if self._parameters.packed is not None or hasattr(self, "_hf_hook"):
            return
        weight = self.weight
        if not weight.requires_grad and can_pack(weight.dtype, weight.device):
            self._parameters.pack(weight)


class Parameters(dict[str, Any]):
    """A linear's ``_parameters``; while the weight is packed, whoever reads it gets it unpacked first.

    Attributes:
        packed: the weight in the blocked layout, opaque; None while it is plain.
    """

    packed: Tensor | None = None

    def pack(self, weight: Tensor) -> None:
        """Keep ``weight``, which is held under its name, in the blocked layout instead."""
        with torch.inference_mode(mode=False), _LOCK:
            if super().__getitem__(_WEIGHT) is weight:  # nobody was faster
                self.packed = _OPS._reorder_linear_weight(weight.data)  # noqa: SLF001  # see _OPS
                super().__setitem__(_WEIGHT, None)

    def unpack(self) -> None:
        """Keep the plain weight again."""
        if self.packed is None:
            return
        with torch.inference_mode(mode=False), _LOCK:
            if self.packed is not None:
                super().__setitem__(_WEIGHT, nn.Parameter(self.packed.to_dense(), requires_grad=False))
                self.packed = None

    def __getitem__(self, name: str) -> Any:
        if name == _WEIGHT:
            self.unpack()
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name == _WEIGHT:
            self.packed = None
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        if name == _WEIGHT:
            self.packed = None
        super().__delitem__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Parameters, (dict(self.items()),))

    def get(self, name: str, default: Any = None) -> Any:
        """See ``dict.get``."""
        if name == _WEIGHT:
            self.unpack()
        return super().get(name, default)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # dict_items is one
        """See ``dict.items``."""
        self.unpack()
        return super().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]  # dict_values is one
        """See ``dict.values``."""
        self.unpack()
        return super().values()


def make_packable(module: nn.Module) -> None:
    """Replace every large linear below ``module``, none of which has storage yet, by a packable one."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and child.in_features * child.out_features >= LEAST:
            setattr(module, name, PackableLinear(child))
        else:
            make_packable(child)


def pack(module: nn.Module) -> None:
    """Pack what can be packed below ``module``, one weight at a time."""
    for child in module.modules():
        if isinstance(child, PackableLinear):
            child.pack()
