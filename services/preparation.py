"""From what the operator asked for to the application's arguments: resolves every ``auto`` and checks the checkpoint.

Everything that needs torch runs in a short-lived child, so that the launching process stays small.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from cluster.demo import CHECKPOINT, MODEL_NAME
from cluster.engine.native import library
from cluster.errors import CheckpointError, ConfigurationError
from services.args import AppArgs
from services.conversations.redis_checks import check_store
from services.ray_environment import LONGEST_TURN_S
from services.settings import RANDOM, ClusterSettings
from services.state import StateFolder

DEFAULT_NAME = "chatglm3"
RANDOM_SIZE = "demo"
RANDOM_SEED = 7

P = ParamSpec("P")
T = TypeVar("T")
Say = Callable[[str], None]


def prepare(settings: ClusterSettings, state: StateFolder, say: Say) -> AppArgs:
    """Arguments of the application.

    Raises:
        CheckpointError: the checkpoint cannot be served; names file and tensor.
        ConfigurationError: a setting asks for what this machine does not have, or the store cannot be used.
        StoreUnavailableError: the store does not answer.
    """
    if not settings.address:  # Serve may be there already, and asks on every node
        check_port(settings.port)
    if settings.redis_url:
        for warning in asyncio.run(check_store(settings.redis_url)):
            say(f"WARNING: {warning}")
    device = _device(settings)
    dtype = _dtype(settings, device)
    kv_cache_bytes = int(settings.kv_cache_gib * 2**30) if settings.kv_cache_gib else None
    native = _is_native(settings, device, dtype)
    path, name = _model(settings, state, say)
    say(f"checking {path}")
    lora, prefix = (str(folder) if folder else "" for folder in (settings.lora, settings.prefix))
    _in_child(_check, path, dtype, kv_cache_bytes, quantize=settings.quantize, lora=lora, prefix=prefix)
    return AppArgs(
        model_path=str(path),
        model_name=settings.model_name or name,
        redis_url=settings.redis_url or "",
        device=device,
        dtype=dtype,
        threads=settings.threads or default_threads(os.cpu_count() or 1, settings.most_replicas, native=native),
        kv_cache_bytes=kv_cache_bytes,
        max_num_seqs=settings.max_num_seqs,
        max_batched_tokens=settings.max_batched_tokens,
        max_prefill_while_decoding=settings.max_prefill_while_decoding,
        max_waiting=settings.max_waiting,
        max_wait_s=settings.max_wait_s,
        max_named_tenants=settings.max_named_tenants,
        history_ttl_s=int(settings.history_ttl_days * 86400),
        max_conversation_items=settings.max_conversation_items,
        max_queued=settings.max_queued,
        dispatcher_slots=settings.dispatcher_slots,
        longest_turn_s=LONGEST_TURN_S,
        drain_grace_s=settings.drain_grace_s,
        deterministic=settings.deterministic,
        engine_process=_engine_process(settings, is_fast=device == "cuda" or native),
        quantize=settings.quantize,
        lora=lora,
        prefix=prefix,
    )


def check_port(port: int) -> None:
    """Raise ConfigurationError when somebody listens there already; Serve itself would start and never answer."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigurationError(f"--port {port} cannot be used: {error.strerror}. Choose another one.") from error


def default_threads(cores: int, replicas: int, *, native: bool) -> int:
    """CPU threads per replica.

    torch's threads wait for each other, so one of them losing its core to a gateway stops them all: one core is left to
    the rest of the cluster. The C step's threads take what work there is, and a late one stops nobody: they get all
    (measured through HTTP on two cores: docs/benchmarks/serving.md).
    """
    return max(1, (cores if native else cores - 1) // replicas)


def _is_native(settings: ClusterSettings, device: str, dtype: str) -> bool:
    """Whether a replica here would compute with ``cluster.engine.native``; by shape it mostly does."""
    is_plain = not settings.quantize and settings.prefix is None
    return device == "cpu" and dtype == "bfloat16" and is_plain and library.load() is not None


def _device(settings: ClusterSettings) -> str:
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    if settings.device == "cuda" and not has_gpu and not settings.address:
        raise ConfigurationError("--device cuda was asked for, but this machine has no NVIDIA GPU; use --device cpu.")
    if settings.device == "auto":
        return "cuda" if has_gpu else "cpu"
    return settings.device


def _dtype(settings: ClusterSettings, device: str) -> str:
    if settings.dtype == "auto":
        return "bfloat16" if device == "cuda" else "float32"
    return settings.dtype


def _engine_process(settings: ClusterSettings, *, is_fast: bool) -> bool:
    """Where steps are short, the time between them counts, which the engine else shares with the replica's event loop.

    Measured through HTTP with the C step on two cores: 0.96, 1.03 and 1.04 times the tokens per second at 1, 8 and 32
    streams, 0.94, 0.84 and 0.73 times the time to the first token, 37 MiB more (docs/benchmarks/serving.md).
    """
    return is_fast if settings.engine_process is None else settings.engine_process


def _model(settings: ClusterSettings, state: StateFolder, say: Say) -> tuple[Path, str]:
    """The checkpoint to serve, and the name it has where the operator gave none."""
    if settings.model is None:
        say(f"no --model given: serving the small {MODEL_NAME} that comes with the package")
        return CHECKPOINT, MODEL_NAME
    if settings.model == RANDOM:
        return _random_model(state, say), DEFAULT_NAME
    return settings.model, DEFAULT_NAME


def _random_model(state: StateFolder, say: Say) -> Path:
    path = state.models / f"random-{RANDOM_SIZE}"
    if not path.exists():
        say("making a small checkpoint with random weights")
        _in_child(_write_random, path)
    say("NOTE: serving RANDOM weights; answers are gibberish.")
    return path


def _in_child(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _check(path: Path, dtype: str, kv_cache_bytes: int | None, *, quantize: int, lora: str, prefix: str) -> None:
    from cluster.model.checkpoint import inspect_checkpoint  # noqa: PLC0415 - torch, in the child only
    from cluster.model.loader import check_load  # noqa: PLC0415 - likewise
    from cluster.replica.runner import check_kv_cache  # noqa: PLC0415 - likewise

    report = inspect_checkpoint(path)
    if report.problem or report.config is None:
        raise CheckpointError(report.problem)
    check_load(path, quantize=quantize, lora=lora or None, prefix=prefix or None)
    if kv_cache_bytes is not None:
        check_kv_cache(kv_cache_bytes, report.config, dtype)


def _write_random(path: Path) -> None:
    from cluster.model.checkpoint import write_random_checkpoint  # noqa: PLC0415 - torch, in the child only

    write_random_checkpoint(path, RANDOM_SIZE, RANDOM_SEED)
