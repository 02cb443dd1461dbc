"""Builds the engine of a replica from its settings."""

from __future__ import annotations

from pathlib import Path

import torch

from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.client import EngineClient
from cluster.engine.config import EngineConfig
from cluster.engine.runner import ModelRunner, num_pages_for
from cluster.model.config import load_config
from cluster.model.loader import load_model
from cluster.replica.config import ReplicaConfig

GPU_MEMORY_SHARE = 0.9  # of what loading left free; the rest is for activations


def build_engine(config: ReplicaConfig) -> EngineClient:
    """An engine that loads its checkpoint when started.

    Raises:
        CheckpointError: the checkpoint's configuration cannot be served.
    """
    shape = load_config(Path(config.model_path))
    engine_config = EngineConfig(
        model_id=f"{config.model_path}:{config.dtype}",
        context_length=shape.seq_length,
        vocab_size=shape.padded_vocab_size,
        page_size=config.page_size,
        max_num_seqs=config.max_num_seqs,
        max_batched_tokens=config.max_batched_tokens,
        max_waiting=config.max_waiting,
    )
    return ThreadedEngine(lambda: _build_runner(config), engine_config)


def _build_runner(config: ReplicaConfig) -> ModelRunner:
    if config.threads:
        torch.set_num_threads(config.threads)
    dtype: torch.dtype = getattr(torch, config.dtype)
    device = torch.device(config.device)
    model = load_model(Path(config.model_path), dtype=dtype, device=device)
    pages = num_pages_for(_kv_cache_bytes(config, device), model.config, dtype, config.page_size)
    return ModelRunner(model, num_pages=pages, page_size=config.page_size)


def _kv_cache_bytes(config: ReplicaConfig, device: torch.device) -> int:
    if config.kv_cache_bytes is not None:
        return config.kv_cache_bytes
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_MEMORY_SHARE)
