"""Folders that hold a tuned prefix alone, to be applied over a base model.

The shape of the prefix is told by its tensors. Where the folder has a config.json too, as the published tuning programs
write one, it must say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cluster.errors import CheckpointError
from cluster.model.config import CONFIG_FILE, ChatGLM3Config, load_config
from cluster.model.files import TensorInfo, find_shards, open_shard, read_infos
from cluster.model.prefix import PrefixEncoder

PREFIX_NAME = "transformer.prefix_encoder."

_ROWS = f"{PREFIX_NAME}embedding.weight"
_PROJECTION = f"{PREFIX_NAME}trans.0.weight"


def read_prefix(folder: Path, base: ChatGLM3Config) -> dict[str, Tensor]:
    """The tensors of a prefix, checked against the base model: name -> tensor on CPU, as stored.

    Raises:
        CheckpointError: the folder holds something else, or a prefix for another model; names the tensor.
    """
    if base.pre_seq_len:
        raise CheckpointError(f"{folder} cannot be applied: the checkpoint has a prefix already; name a base model.")
    shards = find_shards(folder)
    infos = read_infos(shards)
    config = _config_of(infos, base, folder)
    _check(infos, config, folder)
    return {name: tensor for path in shards for name, tensor in _read(path)}


def with_prefix(config: ChatGLM3Config, tensors: Mapping[str, Tensor]) -> ChatGLM3Config:
    """The configuration of a base model with such a prefix over it; of the base model itself where there is none."""
    if not tensors:
        return config
    return replace(config, pre_seq_len=tensors[_ROWS].shape[0], prefix_projection=_PROJECTION in tensors)


def _config_of(infos: Mapping[str, TensorInfo], base: ChatGLM3Config, folder: Path) -> ChatGLM3Config:
    if _ROWS not in infos or not infos[_ROWS].shape or not infos[_ROWS].shape[0]:
        raise CheckpointError(f"{folder} holds no prefix: tensor {_ROWS!r} is missing or empty.")
    rows, has_projection = infos[_ROWS].shape[0], _PROJECTION in infos
    if (folder / CONFIG_FILE).exists():
        said = load_config(folder)
        if (said.pre_seq_len, said.prefix_projection) != (rows, has_projection):
            raise CheckpointError(
                f"{folder / CONFIG_FILE}: pre_seq_len is {said.pre_seq_len} and prefix_projection "
                f"{said.prefix_projection}, but the stored prefix has {rows} rows and "
                f"{'a' if has_projection else 'no'} projection."
            )
    return replace(base, pre_seq_len=rows, prefix_projection=has_projection)


def _check(infos: Mapping[str, TensorInfo], config: ChatGLM3Config, folder: Path) -> None:
    wanted = {f"{PREFIX_NAME}{name}": tuple(each.shape) for name, each in PrefixEncoder(config).named_parameters()}
    for name in sorted(wanted.keys() | infos.keys()):
        if name not in wanted:
            raise CheckpointError(
                f"{infos[name].file}: tensor {name!r} is of no prefix; the folder must hold one alone."
            )
        if name not in infos:
            raise CheckpointError(f"{folder}: tensor {name!r} is missing.")
        info = infos[name]
        if info.shape != wanted[name] or info.dtype is None or not info.dtype.is_floating_point:
            raise CheckpointError(
                f"{info.file}: tensor {name!r} is {info.dtype} {list(info.shape)}; the base model asks for floating "
                f"numbers of shape {list(wanted[name])}."
            )


def _read(path: Path) -> list[tuple[str, Tensor]]:
    with open_shard(path) as shard:
        found = [(name, shard.tensor(name).clone()) for name in sorted(shard.infos())]
    for name, tensor in found:
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: tensor {name!r} holds NaN or infinity; the file is damaged.")
    return found
