"""Writes checkpoints with random weights in the published format, for demonstrations, tests and benchmarks.

Answers are gibberish on purpose, but they behave: weights are scaled so that greedy text varies, and the stop ids' rows
of the output layer are a little larger than the others, so that answers end.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cluster.errors import ConfigurationError
from cluster.model.config import ChatGLM3Config
from cluster.model.loader import expected_shapes
from cluster.model.writing import new_checkpoint_folder, write_config
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.training import PUBLISHED_PIECES, train_tokenizer

Progress = Callable[[int, int], None]  # (bytes of weights written, bytes in all)
TokenizerMaker = Callable[[Path, int], ChatGLM3Tokenizer]  # (folder to write into, SentencePiece pieces)

_SHARD_BYTES = 2 << 30
_STOP_SCALE = 1.5  # of the stop ids' output rows: one in some dozens of tokens is then a stop
_LOGIT_STD = 2.0
_BIAS_STD = _NORM_STD = 0.1


def _shape(
    layers: int, hidden: int, heads: int, ffn: int, *, vocab: int = 65024, context: int = 8192
) -> ChatGLM3Config:
    return ChatGLM3Config(
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        kv_channels=hidden // heads,
        multi_query_group_num=2,
        ffn_hidden_size=ffn,
        padded_vocab_size=vocab,
        seq_length=context,
        add_qkv_bias=True,
    )


# name -> (shape, SentencePiece pieces of its tokenizer; nine specials and padding fill the vocabulary)
SIZES: dict[str, tuple[ChatGLM3Config, int]] = {
    "tiny": (_shape(3, 64, 4, 176, vocab=832, context=1024), 820),
    "demo": (_shape(4, 192, 6, 512, vocab=2048, context=2048), 2000),
    "small": (_shape(8, 512, 8, 1408), PUBLISHED_PIECES),
    "base": (_shape(16, 1024, 16, 2816), PUBLISHED_PIECES),
    "6b": (_shape(28, 4096, 32, 13696), PUBLISHED_PIECES),
}


def write_random_checkpoint(
    out: str | Path,
    size: str,
    seed: int = 0,
    *,
    dtype: str = "bfloat16",
    context: int | None = None,
    make_tokenizer: TokenizerMaker = train_tokenizer,
    progress: Progress | None = None,
) -> Path:
    """Write a checkpoint folder: config.json, safetensors (in shards above 2 GiB) and a tokenizer.

    The folder appears complete or not at all. Equal arguments give equal weights.

    Args:
        out: the folder to make; it may exist if it is empty.
        size: a key of ``SIZES``.
        seed: of the weights.
        dtype: ``bfloat16``, ``float16`` or ``float32``.
        context: positions of the model; None takes the size's own.
        make_tokenizer: writes the tokenizer's files.
        progress: called after each tensor.

    Returns:
        ``out``.

    Raises:
        ConfigurationError: unknown size or dtype, or ``out`` holds something already.
    """
    config, pieces = _chosen(size, dtype, context)
    folder = Path(out)
    with new_checkpoint_folder(folder) as draft:
        tokenizer = make_tokenizer(draft, pieces)
        write_config(draft, config, "random-chatglm3")
        _write_weights(draft, config, tokenizer.stop_ids, seed, progress)
    return folder


def _chosen(size: str, dtype: str, context: int | None) -> tuple[ChatGLM3Config, int]:
    if size not in SIZES:
        raise ConfigurationError(f"size must be one of {', '.join(SIZES)}, not {size!r}.")
    if dtype not in {"bfloat16", "float16", "float32"}:
        raise ConfigurationError(f"dtype must be bfloat16, float16 or float32, not {dtype!r}.")
    config, pieces = SIZES[size]
    if context is not None and context < 1:
        raise ConfigurationError(f"context must be 1 or more positions, not {context}.")
    return replace(config, torch_dtype=dtype, seq_length=context or config.seq_length), pieces


def _write_weights(
    folder: Path, config: ChatGLM3Config, stop_ids: tuple[int, ...], seed: int, progress: Progress | None
) -> None:
    dtype: torch.dtype = getattr(torch, config.torch_dtype)
    shapes = expected_shapes(config)
    sizes = {name: torch.Size(shape).numel() * dtype.itemsize for name, shape in shapes.items()}
    shards = _planned_shards(sizes)
    written = 0
    for number, names in enumerate(shards, 1):
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors[name] = _random(name, shapes[name], stop_ids, seed).to(dtype)
            written += sizes[name]
            if progress:
                progress(written, sum(sizes.values()))
        save_file(tensors, folder / _shard_name(number, len(shards)), metadata={"format": "pt"})
    if len(shards) > 1:
        _write_index(folder, shards, sum(sizes.values()))


def _planned_shards(sizes: dict[str, int]) -> list[list[str]]:
    """Names of the tensors of each file, in the model's order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > _SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _write_index(folder: Path, shards: list[list[str]], total: int) -> None:
    files = {name: _shard_name(number, len(shards)) for number, names in enumerate(shards, 1) for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _random(name: str, shape: tuple[int, ...], stop_ids: tuple[int, ...], seed: int) -> Tensor:
    """One float32 tensor. Its seed is its own, so a change of other tensors does not shift it."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest()
    source = torch.Generator().manual_seed(int.from_bytes(digest))
    values = torch.randn(shape, generator=source) * _std(name, shape)
    if "layernorm" in name:
        values += 1.0
    if "output_layer" in name:
        values[list(stop_ids)] *= _STOP_SCALE
    return values


def _std(name: str, shape: tuple[int, ...]) -> float:
    if "layernorm" in name:
        return _NORM_STD
    if name.endswith("bias"):
        return _BIAS_STD
    if "word_embeddings" in name:
        return 1.0
    gain = _LOGIT_STD if "output_layer" in name else 1.0
    return gain / math.sqrt(shape[-1])  # keeps the variance of what goes through
