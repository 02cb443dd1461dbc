"""LoRA adapters in PEFT's folders, without PEFT: W + scale * B A, merged into the weights or computed beside them.

Which linears are adapted is told by the stored tensors; the configuration must agree with them. What it may ask for and
this project does not compute is refused by name, never left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cluster.errors import CheckpointError
from cluster.model.files import open_shard
from cluster.model.lora_config import CONFIG_FILE, LoraConfig, ends_with, load_lora_config
from cluster.model.quantization import QuantizedLinear

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there

_ROOT = "base_model.model."
_LEAVES = {
    f".lora_{side}{name}.weight": side for side in "AB" for name in ("", ".default")
}  # PEFT leaves the adapter's name out when it saves; some tools keep it


@dataclass(frozen=True, slots=True)
class Pair:
    """One adapted linear.

    Attributes:
        down: A, [r, in].
        up: B, [out, r].
        scale: alpha / r, or alpha / sqrt(r).
    """

    down: Tensor
    up: Tensor
    scale: float

    def added_to(self, weight: Tensor) -> Tensor:
        """``weight`` [out, in] with the adapter in it: computed in float32, rounded to the weight's dtype once."""
        down, up = (part.to(weight.device, torch.float32) for part in (self.down, self.up))
        return torch.addmm(weight.float(), up, down, alpha=self.scale).to(weight.dtype)


class LoraLinear(nn.Module):
    """A linear with its adapter kept apart: [..., in] -> [..., out].

    Attributes:
        base: the linear as it was, quantized or not.
        lora_a: A, [r, in] in the activations' dtype.
        lora_b: scale * B, [out, r] in the same.
    """

    def __init__(self, base: nn.Module, pair: Pair, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(pair.down.to(device, dtype), requires_grad=False)
        self.lora_b = nn.Parameter((pair.up.float() * pair.scale).to(device, dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        linear = nn.functional.linear
        y: Tensor = self.base(x) + linear(linear(x, self.lora_a), self.lora_b)
        return y


def load_lora(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Pair]:
    """The adapter of a PEFT folder, checked against the model it is for.

    Args:
        folder: holds ``adapter_config.json`` and the weights.
        shapes: name -> shape [out, in] of the linears that can be adapted, without ``.weight``.

    Returns:
        Name of a linear -> its pair, on CPU as stored.

    Raises:
        CheckpointError: the adapter asks for what is not supported, or does not fit the model; names what.
    """
    config = load_lora_config(folder)
    tensors, path = _read(folder)
    found = _by_linear(tensors, path)
    _check_targets(found.keys(), config, shapes, folder)
    return {name: _pair(name, sides, config, shapes[name], path) for name, sides in sorted(found.items())}


def adapt_linears(module: nn.Module, pairs: Mapping[str, Pair], *, dtype: torch.dtype) -> None:
    """Keep an adapter apart: put a ``LoraLinear`` in the place of each linear that it adapts."""
    for name, pair in pairs.items():
        owner, _, leaf = name.rpartition(".")
        base = module.get_submodule(name)
        device = next(base.parameters()).device
        setattr(module.get_submodule(owner), leaf, LoraLinear(base, pair, dtype=dtype, device=device))


def merge_linears(module: nn.Module) -> None:
    """Merge adapters that are kept apart into their weights, in place.

    Raises:
        CheckpointError: a weight is quantized, which nothing can be added to.
    """
    for owner in list(module.modules()):
        for leaf, child in list(owner.named_children()):
            if isinstance(child, LoraLinear):
                setattr(owner, leaf, _merged(leaf, child))


def _merged(name: str, adapted: LoraLinear) -> nn.Linear:
    base = adapted.base
    if isinstance(base, QuantizedLinear) or not isinstance(base, nn.Linear):
        raise CheckpointError(f"The weight of {name} is quantized; an adapter can only be kept beside it.")
    pair = Pair(adapted.lora_a.data, adapted.lora_b.data, 1.0)
    base.weight = nn.Parameter(pair.added_to(base.weight.data), requires_grad=False)
    return base


def _read(folder: Path) -> tuple[dict[str, Tensor], Path]:
    for path in (folder / name for name in WEIGHT_FILES):
        if path.is_file():
            with open_shard(path) as shard:
                return {name: shard.tensor(name).clone() for name in shard.infos()}, path
    raise CheckpointError(f"{folder} holds no adapter; looked for {' and '.join(WEIGHT_FILES)}.")


def _by_linear(tensors: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        leaf = next((leaf for leaf in _LEAVES if name.startswith(_ROOT) and name.endswith(leaf)), None)
        if leaf is None:
            raise CheckpointError(
                f"{path}: tensor {name!r} is not of a LoRA adapter of linears ({_ROOT}….lora_A.weight)."
            )
        found.setdefault(name[len(_ROOT) : -len(leaf)], {})[_LEAVES[leaf]] = tensor
    return found


def _check_targets(
    adapted: Iterable[str], config: LoraConfig, shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    """Stored pairs and the configuration must choose the same linears, all of which the model has."""
    for name in sorted(adapted):
        if name not in shapes:
            raise CheckpointError(f"{folder}: the adapter is for {name!r}, which is no linear of this model.")
        if not config.may_adapt(name):
            raise CheckpointError(f"{folder}: the adapter holds {name!r}, which {config.path.name} does not choose.")
    for target in config.targets or ():
        if not any(ends_with(name, target) for name in shapes):
            raise CheckpointError(f"{config.path}: target_modules has {target!r}, which is no linear of this model.")
    chosen = {name for name in shapes if config.may_adapt(name)} if config.targets is not None else set()
    if missing := sorted(chosen - set(adapted)):
        raise CheckpointError(f"{folder}: the adapter's tensors for {missing[0]!r} are missing.")


def _pair(name: str, sides: Mapping[str, Tensor], config: LoraConfig, shape: tuple[int, ...], path: Path) -> Pair:
    out, width = shape
    rank = config.rank_of(name)
    wanted = {"A": (rank, width), "B": (out, rank)}
    for side, size in wanted.items():
        _check_tensor(f"{name}.lora_{side}", sides.get(side), size, path)
    return Pair(sides["A"], sides["B"], config.scale_of(name))


def _check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...], path: Path) -> None:
    if tensor is None:
        raise CheckpointError(f"{path}: tensor {name!r} is missing.")
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {list(tensor.shape)}; the base model and {CONFIG_FILE} ask for "
            f"{list(shape)}."
        )
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise CheckpointError(f"{path}: tensor {name!r} holds NaN, infinity or no floating numbers.")
