"""Loads a published checkpoint into the model, one tensor at a time.

Every name and shape is checked against the configuration before the first byte of data is read, so a wrong checkpoint
is refused within moments whatever its size. Host memory beyond the model itself stays at about one file's worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from cluster.errors import CheckpointError
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.config import ChatGLM3Config, load_config
from cluster.model.files import TensorInfo, find_shards, open_shard, read_infos

# A saved buffer of the original release: it can be recomputed, and ignores rope_ratio.
IGNORED = frozenset({"transformer.rotary_pos_emb.inv_freq"})


def load_model(path: str | Path, dtype: torch.dtype, device: torch.device | str) -> ChatGLM3Model:
    """The model of a checkpoint folder, in ``dtype`` on ``device``, ready for inference.

    Raises:
        CheckpointError: a file is missing, truncated or unsafe, or a tensor is unknown, missing or misshapen; the
            message names the file and the tensor.
    """
    folder = Path(path)
    config = load_config(folder)
    shards = find_shards(folder)
    check_tensors(read_infos(shards), config, folder)
    model = ChatGLM3Model(config, dtype=dtype, device=torch.device(device))
    for shard in shards:
        _fill_from(shard, model)
    return model.eval()


def expected_shapes(config: ChatGLM3Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint of this configuration must hold."""
    shape_only = ChatGLM3Model(config, dtype=torch.float32, device=torch.device("meta"))
    return {name: tuple(parameter.shape) for name, parameter in shape_only.named_parameters()}


def check_tensors(infos: Mapping[str, TensorInfo], config: ChatGLM3Config, folder: Path) -> None:
    """Raises CheckpointError naming a tensor that is unknown, missing, misshapen or not of a floating type."""
    shapes = expected_shapes(config)
    if missing := sorted(shapes.keys() - infos.keys()):
        raise CheckpointError(f"{folder}: tensor {missing[0]!r} is missing{_and_more(missing)}.")
    for name, info in infos.items():
        if name not in IGNORED:
            _check_tensor(name, info, shapes.get(name))


def _check_tensor(name: str, info: TensorInfo, shape: tuple[int, ...] | None) -> None:
    if shape is None:
        raise CheckpointError(f"{info.file}: tensor {name!r} is unknown to a ChatGLM3 of this configuration.")
    if info.shape != shape:
        raise CheckpointError(
            f"{info.file}: tensor {name!r} has shape {list(info.shape)}; config.json asks for {list(shape)}."
        )
    if info.dtype is None:
        raise CheckpointError(f"{info.file}: tensor {name!r} is not float16, bfloat16 or float32.")


def _and_more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def _fill_from(path: Path, model: ChatGLM3Model) -> None:
    with open_shard(path) as shard:
        for name in shard.infos().keys() - IGNORED:
            # copy: a mapped file must not stay the model's memory, where a later change of the file would reach it.
            tensor = shard.tensor(name).to(model.device, model.dtype, copy=path.suffix == ".bin")
            _assign(model, name, tensor)


def _assign(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
