"""Loads a replica's model and sizes its page pool. Imports torch, so only where the engine is."""

from __future__ import annotations

import structlog
import torch

from cluster.engine.deterministic import DeterministicRunner
from cluster.engine.native.runner import NativeRunner, can_run
from cluster.engine.plan import Runner
from cluster.engine.runner import ModelRunner, num_pages_for
from cluster.model.config import ChatGLM3Config
from cluster.model.loader import check_load, load_model, weight_bytes
from cluster.replica.config import PAGE_SIZE, ReplicaConfig
from cluster.replica.memory import free_memory, require_memory

GPU_MEMORY_SHARE = 0.9  # of what loading left free; the rest is for activations
CPU_KV_BYTES = 2**28  # a CPU's default, or two full contexts of the model if those take more
CPU_KV_CONTEXTS = 2

log = structlog.get_logger(__name__)


def build_runner(config: ReplicaConfig) -> Runner:
    """The loaded model with its pages.

    Raises:
        CheckpointError: the checkpoint cannot be served.
        ConfigurationError: there is too little memory; names what is needed.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    dtype: torch.dtype = getattr(torch, config.dtype)
    device = torch.device(config.device)
    if device.type == "cpu":  # a GPU says itself what it does not hold
        _check_memory(config, dtype)
    model = load_model(
        config.model_path,
        dtype,
        device,
        quantize=config.quantize,
        lora=config.lora or None,
        prefix=config.prefix or None,
    )
    pages = num_pages_for(_kv_cache_bytes(config, model.config, dtype, device), model.config, dtype, config.page_size)
    size = {"num_pages": pages, "page_size": config.page_size}
    if can_run(model):
        threads = torch.get_num_threads()
        log.info("runner.native", threads=threads)
        return NativeRunner(model, **size, threads=threads, is_deterministic=config.deterministic)
    log.info("runner.torch", device=config.device, dtype=config.dtype)
    return DeterministicRunner(model, **size) if config.deterministic else ModelRunner(model, **size)


def _check_memory(config: ReplicaConfig, dtype: torch.dtype) -> None:
    shape = check_load(
        config.model_path, quantize=config.quantize, lora=config.lora or None, prefix=config.prefix or None
    )
    kv_cache = _kv_cache_bytes(config, shape, dtype, torch.device("cpu"))
    require_memory(weights=weight_bytes(shape, dtype), kv_cache=kv_cache, free=free_memory())


def check_kv_cache(kv_cache_bytes: int, shape: ChatGLM3Config, dtype: str) -> None:
    """Raise ConfigurationError, naming what would do, when a pool of that size cannot hold one full context."""
    num_pages_for(kv_cache_bytes, shape, getattr(torch, dtype), PAGE_SIZE)


def _kv_cache_bytes(config: ReplicaConfig, shape: ChatGLM3Config, dtype: torch.dtype, device: torch.device) -> int:
    if config.kv_cache_bytes is not None:
        return config.kv_cache_bytes
    if device.type == "cpu":
        page_bytes = config.page_size * shape.kv_bytes_per_token(dtype)
        pages = CPU_KV_CONTEXTS * -(-shape.seq_length // config.page_size) + 1
        return max(CPU_KV_BYTES, pages * page_bytes)
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * GPU_MEMORY_SHARE)
