"""The weight files of a checkpoint folder: safetensors or torch ``.bin``, whole or in shards behind an index.

Both kinds answer the same two questions, what tensors are inside (read from headers, without the data) and give me
one. ``.bin`` files are pickles: they are opened with torch's weights-only reader alone, which builds tensors and
nothing else, and mapped into memory so that a tensor is only read when it is used.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cluster.errors import CheckpointError

# In order of preference: safetensors before pickles, an index before a single file.
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")

_SAFE_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
}
_KNOWN_DTYPES = frozenset(_SAFE_DTYPES.values())


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A stored tensor; ``dtype`` is None where it is neither a floating type this project reads nor int8."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | None


class Shard(Protocol):
    """One open weight file."""

    path: Path

    def infos(self) -> dict[str, TensorInfo]:
        """Name -> what is stored, without reading the data."""
        ...

    def tensor(self, name: str) -> Tensor:
        """The tensor on CPU, as stored; its memory may be the file, so what is kept must be a copy."""
        ...


def find_shards(folder: Path) -> list[Path]:
    """The weight files to read, in a fixed order. Raises CheckpointError when there are none or one is missing."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint is a folder with config.json and weights.")
    for kind in ("safetensors", "bin"):
        if shards := _shards_of(folder, kind):
            return shards
    names = ", ".join(_SINGLES + _INDEXES)
    raise CheckpointError(f"{folder} holds no weights; looked for {names}.")


@contextmanager
def open_shard(path: Path) -> Iterator[Shard]:
    """Open one weight file. Raises CheckpointError naming the file when it is truncated, corrupt or unsafe."""
    if path.suffix == ".bin":
        yield _BinShard(path)
        return
    try:
        handle = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}; fetch it again.") from error
    with handle:
        yield _SafeShard(path, handle)


def read_infos(shards: list[Path]) -> dict[str, TensorInfo]:
    """Name -> what is stored over all files. Raises CheckpointError for a name that two files hold."""
    found: dict[str, TensorInfo] = {}
    for path in shards:
        with open_shard(path) as shard:
            infos = shard.infos()
        for name in found.keys() & infos.keys():
            raise CheckpointError(f"Tensor {name!r} is in both {found[name].file} and {path}.")
        found.update(infos)
    return found


def _shards_of(folder: Path, kind: str) -> list[Path]:
    for index in (name for name in _INDEXES if f".{kind}." in name):
        if (folder / index).exists():
            return _indexed(folder / index)
    return [folder / name for name in _SINGLES if name.endswith(kind) and (folder / name).exists()]


def _indexed(index: Path) -> list[Path]:
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or Path(name).suffix not in {".safetensors", ".bin"}:
            raise CheckpointError(f"{index} names {name!r}, which is not a weight file of this folder.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name} is missing; {index.name} names it.")
    return [index.parent / name for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text("utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of weight files: {error!r}.") from error
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{index} is not an index of weight files: weight_map must map tensors to files.")
    return found


class _SafeShard:
    def __init__(self, path: Path, handle: Any) -> None:
        self.path = path
        self._handle = handle

    def infos(self) -> dict[str, TensorInfo]:
        return {name: self._info(name) for name in self._handle.keys()}  # noqa: SIM118  # a handle is no mapping

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor

    def _info(self, name: str) -> TensorInfo:
        stored = self._handle.get_slice(name)
        return TensorInfo(self.path, tuple(stored.get_shape()), _SAFE_DTYPES.get(stored.get_dtype()))


class _BinShard:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = _load_bin(path)

    def infos(self) -> dict[str, TensorInfo]:
        return {name: self._info(tensor) for name, tensor in self._tensors.items()}

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name].contiguous()

    def _info(self, tensor: Tensor) -> TensorInfo:
        is_plain = tensor.dtype in _KNOWN_DTYPES and tensor.layout is torch.strided
        return TensorInfo(self.path, tuple(tensor.shape), tensor.dtype if is_plain else None)


def _load_bin(path: Path) -> dict[str, Tensor]:
    try:
        # Files from before torch 1.6 are no archives and cannot be mapped.
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:  # its words advise to load the file unsafely
        raise CheckpointError(
            f"{path} is not a complete file of tensors: it is damaged or holds code, which is never run; fetch it "
            "again, from a source that you trust."
        ) from error
    except Exception as error:  # the reader has no common base class for its failures
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a complete file of tensors: {reason}; fetch it again.") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} does not hold named tensors.")
    for name, tensor in held.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is not a tensor.")
    return held
