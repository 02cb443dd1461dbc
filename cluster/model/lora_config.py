"""``adapter_config.json`` of a PEFT folder, as far as it says what an adapter computes.

A field that would change the arithmetic in a way that is not computed here is refused by its name. Fields that count in
training alone (dropout, how weights were initialised, if that left the base alone) are not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import CheckpointError
from cluster.model.config import read_object

CONFIG_FILE = "adapter_config.json"

DEFAULT_TARGETS = ("query_key_value",)  # PEFT's for this model type

# Fields whose other values are not computed here; absent, null and empty all mean that there is nothing.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "monteclora_config",
)
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal")  # the others change the base's weights as well
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What an adapter says of itself.

    Attributes:
        path: the file.
        rank: r, where no pattern says otherwise.
        alpha: numerator of the scale, likewise.
        is_root: whether the scale is alpha / sqrt(r) (rank-stabilised) instead of alpha / r.
        targets: ends of the names of adapted linears; None where a pattern or a word of PEFT's chose them.
        layers: blocks that are adapted; None: all.
        rank_pattern: end of a name -> r.
        alpha_pattern: end of a name -> alpha.
    """

    path: Path
    rank: int
    alpha: float
    is_root: bool
    targets: tuple[str, ...] | None
    layers: frozenset[int] | None
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]

    def rank_of(self, name: str) -> int:
        """The rank of a linear."""
        return int(_chosen(self.rank_pattern, name, self.rank))

    def scale_of(self, name: str) -> float:
        """What B A is multiplied by for a linear."""
        rank, alpha = self.rank_of(name), _chosen(self.alpha_pattern, name, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_root else rank)

    def may_adapt(self, name: str) -> bool:
        """Whether the targets and layers take a linear in."""
        is_target = self.targets is None or any(ends_with(name, target) for target in self.targets)
        return is_target and (self.layers is None or _layer(name) in self.layers)


def load_lora_config(folder: Path) -> LoraConfig:
    """Read ``adapter_config.json``. Raises CheckpointError naming the file and the field."""
    path = folder / CONFIG_FILE
    fields = read_object(path, f"a LoRA adapter's folder holds a {CONFIG_FILE}")
    _refuse_unsupported(fields, path)
    return LoraConfig(
        path=path,
        rank=int(_positive(fields.get("r", 8), "r", path, whole=True)),
        alpha=_positive(fields.get("lora_alpha", 8), "lora_alpha", path),
        is_root=bool(fields.get("use_rslora")),
        targets=_targets(fields, path),
        layers=_layers(fields, path),
        rank_pattern=_pattern(fields, "rank_pattern", path, whole=True),
        alpha_pattern=_pattern(fields, "alpha_pattern", path),
    )


def ends_with(name: str, end: str) -> bool:
    """Whether a module's name is ``end``, or ends in it at a dot."""
    return name == end or name.endswith(f".{end}")


def _refuse_unsupported(fields: Mapping[str, Any], path: Path) -> None:
    if (kind := fields.get("peft_type")) != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind!r}; only 'LORA' adapters can be applied.")
    for name in _UNSUPPORTED:
        if value := fields.get(name):
            raise CheckpointError(f"{path}: {name} is {value!r}, which is not supported; train the adapter without it.")
    if (bias := fields.get("bias", "none")) != "none":
        raise CheckpointError(f"{path}: bias is {bias!r}; only 'none' is supported.")
    init = fields.get("init_lora_weights")
    if not (init is None or isinstance(init, bool) or init in _HARMLESS_INITS):
        raise CheckpointError(
            f"{path}: init_lora_weights is {init!r}, which also changes the base model's weights; convert the adapter "
            "to a plain one when saving it (path_initial_model_for_weight_conversion)."
        )


def _targets(fields: Mapping[str, Any], path: Path) -> tuple[str, ...] | None:
    targets = fields.get("target_modules")
    if targets is None:
        return DEFAULT_TARGETS
    # A regular expression, "all-linear", or a choice with exceptions: the stored tensors say what was chosen.
    if isinstance(targets, str) or fields.get("exclude_modules"):
        return None
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise CheckpointError(f"{path}: target_modules is {targets!r}; it must be a list of names of linears.")
    return tuple(targets)


def _layers(fields: Mapping[str, Any], path: Path) -> frozenset[int] | None:
    if (pattern := fields.get("layers_pattern")) not in (None, [], "layers", ["layers"]):
        raise CheckpointError(f"{path}: layers_pattern is {pattern!r}; the blocks of this model are called 'layers'.")
    layers = fields.get("layers_to_transform")
    if layers is None:
        return None
    listed = layers if isinstance(layers, list) else [layers]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in listed):
        raise CheckpointError(f"{path}: layers_to_transform is {layers!r}; it must be a number or a list of numbers.")
    return frozenset(listed)


def _pattern(fields: Mapping[str, Any], field: str, path: Path, *, whole: bool = False) -> dict[str, float]:
    patterns = fields.get(field) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: {field} is {patterns!r}; it must map names of linears to numbers.")
    for name in patterns:
        if not _PLAIN_NAME.fullmatch(name):
            raise CheckpointError(f"{path}: {field} holds {name!r}; only plain names of linears are supported.")
    return {name: _positive(value, f"{field} of {name}", path, whole=whole) for name, value in patterns.items()}


def _positive(value: object, name: str, path: Path, *, whole: bool = False) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1e9 or (whole and value != int(value)):  # type: ignore[operator, call-overload]
        raise CheckpointError(f"{path}: {name} is {value!r}; it must be a positive {'integer' if whole else 'number'}.")
    return float(value)  # type: ignore[arg-type]  # a number, by the line above


def _chosen(pattern: Mapping[str, float], name: str, default: float) -> float:
    """The value of the first entry that a linear's name ends in, as PEFT looks it up."""
    return next((value for end, value in pattern.items() if ends_with(name, end)), default)


def _layer(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else None
