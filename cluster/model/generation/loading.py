"""Puts a checkpoint's tensors where a device map wants them; what is offloaded goes through accelerate.

Everything is checked before the first tensor is read, and nothing refers to a model that failed to load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import accelerate
import torch
from accelerate.utils import get_balanced_memory, infer_auto_device_map, offload_weight, save_offload_index
from torch import nn

from cluster.errors import ConfigurationError
from cluster.model.loader import Prepared, assign, ready_tensors

DeviceMap = str | torch.device | int | Mapping[str, Any] | None
_POLICIES: Final = ("auto", "balanced", "balanced_low_0", "sequential")
_FOREIGN: Final = {"transformer.rotary_pos_emb", "lm_head"}  # modules of the published class that hold nothing here
_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def read_dtype(wanted: Any, stored: str) -> torch.dtype:
    """The dtype that an argument means; None and "auto" mean the checkpoint's own.

    Raises:
        ConfigurationError: it is none that the model can run in.
    """
    if wanted is None or wanted == "auto":
        wanted = stored
    found = _DTYPES.get(wanted.removeprefix("torch.")) if isinstance(wanted, str) else wanted
    if found not in _DTYPES.values():
        raise ConfigurationError(f"dtype is {wanted!r}; it can be {', '.join(_DTYPES)} or 'auto'.")
    assert isinstance(found, torch.dtype)
    return found


def resolve_map(
    model: nn.Module, device_map: DeviceMap, dtype: torch.dtype, max_memory: dict[Any, Any] | None
) -> dict[str, Any]:
    """Module name -> device ("disk" included), covering every parameter once; ``""`` is the whole model.

    In an explicit map the innermost module that holds a parameter decides about it.

    Raises:
        ConfigurationError: a policy or a device is unknown, or an explicit map names no module, or leaves a parameter
            out.
    """
    if isinstance(device_map, str) and device_map in _POLICIES:
        wanted = _by_policy(model, device_map, dtype, max_memory)
    elif isinstance(device_map, Mapping):
        wanted = {name: place for name, place in device_map.items() if name not in _FOREIGN}
        _check_cover(model, wanted)
    else:
        wanted = {"": "cpu" if device_map is None else device_map}
    return _disjoint(model, {name: _checked_place(place) for name, place in wanted.items()})


def fill(
    model: nn.Module, prepared: Prepared, places: Mapping[str, Any], dtype: torch.dtype, offload: Path | None
) -> None:
    """Give every parameter its value on its device; those on "disk" are written to ``offload`` and stay meta."""
    index: dict[str, Any] = {}
    for name, tensor in ready_tensors(prepared, model, dtype, lambda name: _device_of(name, places)):
        if _place(name, places) == "disk":
            index = offload_weight(tensor, name, str(offload), index)
        else:
            assign(model, name, tensor)
    if index:
        save_offload_index(index, str(offload))


def check_apart(names: Iterable[str], places: Mapping[str, Any]) -> None:
    """Raises ConfigurationError where an adapter is to be kept beside a linear whose weight is on disk."""
    for name in names:
        if _place(f"{name}.weight", places) == "disk":
            raise ConfigurationError(
                f"{name} is on disk, where no adapter can be kept beside it; merge it (merge=True), or place it in "
                "memory."
            )


def dispatch(model: nn.Module, places: dict[str, Any], offload: Path | None) -> None:
    """Hook the modules so that each runs where its weights are, or where they are brought for the moment."""
    if set(places) == {""} and places[""] != "disk":
        return
    accelerate.dispatch_model(model, places, offload_dir=None if offload is None else str(offload), force_hooks=True)


def offload_folder(places: Mapping[str, Any], given: str | Path | None) -> Path | None:
    """Where weights on "disk" go, made if need be; None where there are none.

    Raises:
        ConfigurationError: weights go to disk, and nobody said where, or no folder can be made there.
    """
    if "disk" not in places.values():
        return None
    if given is None:
        raise ConfigurationError("Some weights go to disk; name a folder for them with offload_folder=…")
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"offload_folder {folder} cannot be made: {error.strerror}.") from error
    return folder


def _by_policy(model: nn.Module, policy: str, dtype: torch.dtype, max_memory: dict[Any, Any] | None) -> dict[str, Any]:
    given = dict(max_memory) if max_memory else None  # accelerate writes into it
    try:
        if policy != "sequential":
            low_zero = policy == "balanced_low_0"
            given = get_balanced_memory(model, given, no_split_module_classes=["Block"], dtype=dtype, low_zero=low_zero)
        made: dict[str, Any] = infer_auto_device_map(model, given, no_split_module_classes=["Block"], dtype=dtype)
    except ValueError as error:
        raise ConfigurationError(
            f"max_memory is {max_memory!r}; it maps devices (0, 1, …, 'cpu') to bytes or texts as '10GiB': {error}"
        ) from error
    return made


def _checked_place(given: Any) -> str:
    """The name of a device that this machine has, or "disk" itself."""
    if given == "disk":
        return "disk"
    try:
        device = torch.device(given)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # torch without CUDA asserts
        raise _no_place(given) from error
    if device.type == "meta":
        raise _no_place(given)
    return str(device)


def _no_place(given: Any) -> ConfigurationError:
    return ConfigurationError(
        f"device_map asks for {given!r}, which is no device of this machine; it can be a device, 'disk', a map of "
        f"modules to these, or {', '.join(_POLICIES)}."
    )


def _disjoint(module: nn.Module, places: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """The same map over the largest modules that have one place each: none holds another, as accelerate needs it."""
    found = {_place(parameter, places) for parameter, _ in module.named_parameters(prefix=name)}
    if len(found) == 1:
        return {name: found.pop()}
    inner = (_disjoint(child, places, f"{name}.{leaf}" if name else leaf) for leaf, child in module.named_children())
    return {name: place for part in inner for name, place in part.items()}


def _check_cover(model: nn.Module, places: Mapping[str, Any]) -> None:
    modules = {name for name, _ in model.named_modules()}
    for name in places:
        if name not in modules:
            raise ConfigurationError(f"device_map names {name!r}, which is no module of the model.")
    for name, _ in model.named_parameters():
        if not any(_is_inside(name, outer) for outer in places):
            raise ConfigurationError(f"device_map says nothing about {name!r}.")


def _place(name: str, places: Mapping[str, Any]) -> Any:
    return places[max((outer for outer in places if _is_inside(name, outer)), key=len)]


def _device_of(name: str, places: Mapping[str, Any]) -> torch.device:
    place = _place(name, places)
    return torch.device("cpu" if place == "disk" else place)


def _is_inside(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")
