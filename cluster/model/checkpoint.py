"""Says what a checkpoint folder is and whether it can be served, from its headers alone: no weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cluster.errors import CheckpointError
from cluster.model.config import CONFIG_FILE, ChatGLM3Config, load_config
from cluster.model.files import TensorInfo, find_shards, read_infos
from cluster.model.loader import check_tensors, weight_bytes
from cluster.model.random_checkpoint import SIZES, write_random_checkpoint
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

__all__ = ["SIZES", "CheckpointReport", "inspect_checkpoint", "write_random_checkpoint"]

MOST_PADDING = 1024  # rows of the embedding that belong to no id

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """What is in a folder. Fields after ``problem`` are filled as far as the inspection came.

    Attributes:
        path: the folder.
        problem: why it cannot be served, one sentence; empty when it can.
        config: its shape.
        files: weight files, in reading order.
        num_tensors: stored in them.
        stored_dtypes: names of the dtypes the weights are stored in.
        num_parameters: of the shape.
        weight_bytes: memory of the weights, by dtype to serve in; of quantized ones, what levels and scales take.
        kv_bytes_per_token: memory of one cached token, by dtype to serve in.
        vocab_size: ids the tokenizer knows, specials included.
    """

    path: Path
    problem: str = ""
    config: ChatGLM3Config | None = None
    files: tuple[Path, ...] = ()
    num_tensors: int = 0
    stored_dtypes: tuple[str, ...] = ()
    num_parameters: int = 0
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    kv_bytes_per_token: Mapping[str, int] = field(default_factory=dict)
    vocab_size: int = 0

    @property
    def can_be_served(self) -> bool:
        """Whether loading it will work."""
        return not self.problem

    @property
    def context_length(self) -> int:
        """Positions the model has; 0 when the configuration could not be read."""
        return self.config.seq_length if self.config else 0


def inspect_checkpoint(path: str | Path) -> CheckpointReport:
    """Inspect a folder. Never raises for what is wrong with it: ``problem`` says so."""
    folder = Path(path)
    found: dict[str, object] = {}
    try:
        _inspect(folder, found)
    except CheckpointError as error:
        found["problem"] = str(error)
    return CheckpointReport(folder, **found)  # type: ignore[arg-type]  # keys and values are _inspect's


def _inspect(folder: Path, found: dict[str, object]) -> None:
    """Fill ``found`` step by step, so that what was learnt before a problem is kept."""
    config = load_config(folder)
    count = config.num_parameters()
    found |= {
        "config": config,
        "num_parameters": count,
        "weight_bytes": {name: weight_bytes(config, dtype) for name, dtype in _DTYPES.items()},
        "kv_bytes_per_token": {name: config.kv_bytes_per_token(dtype) for name, dtype in _DTYPES.items()},
    }
    shards = find_shards(folder)
    found["files"] = tuple(shards)
    infos = read_infos(shards)
    found |= {"num_tensors": len(infos), "stored_dtypes": _names(infos)}
    check_tensors(infos, config, folder)
    found["vocab_size"] = _vocab_size(folder, config)


def _names(infos: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    return tuple(sorted({str(info.dtype).removeprefix("torch.") for info in infos.values() if info.dtype}))


def _vocab_size(folder: Path, config: ChatGLM3Config) -> int:
    vocab_size = ChatGLM3Tokenizer.from_pretrained(folder).vocab_size
    require_fit(vocab_size, config, folder)
    return vocab_size


def require_fit(vocab_size: int, config: ChatGLM3Config, folder: Path) -> None:
    """Raise CheckpointError when a tokenizer of so many ids cannot be the model's.

    A model has as many rows as its tokenizer has ids, and some hundred at most to fill up (226 in the published one).
    """
    rows = config.padded_vocab_size
    if vocab_size > rows or rows - vocab_size > MOST_PADDING:
        raise CheckpointError(
            f"{folder}: the tokenizer has {vocab_size} ids, but padded_vocab_size in {CONFIG_FILE} is {rows}; use the "
            "tokenizer.model that was published with the weights."
        )
