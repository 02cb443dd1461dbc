"""The size of a replica's page pool where nobody named one, and what is refused before anything is loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.demo import CHECKPOINT
from cluster.engine.deterministic import DeterministicRunner
from cluster.engine.runner import num_pages_for
from cluster.errors import ConfigurationError
from cluster.model.config import ChatGLM3Config, load_config
from cluster.model.loader import weight_bytes
from cluster.model.lora import LoraLinear
from cluster.model.quantization import QuantizedLinear
from cluster.replica.config import ReplicaConfig
from cluster.replica.engine import _engine_config, build_engine
from cluster.replica.runner import CPU_KV_BYTES, _kv_cache_bytes, build_runner
from tests.parity.test_recorded_adapters import prefix_folder

DATA = Path(__file__).parents[2] / "parity" / "data"
TINY, LORA = DATA / "tiny", DATA / "goldens" / "lora_tiny"
CONFIG = ReplicaConfig(model_path="", device="cpu", dtype="float32", threads=1, kv_cache_bytes=None)
PUBLISHED = ChatGLM3Config(multi_query_group_num=2, seq_length=8192)


def test_the_published_model_fits_a_cpu_by_default() -> None:
    """Two full contexts of ChatGLM3-6B in float32, which take more than the usual pool."""
    size = _kv_cache_bytes(CONFIG, PUBLISHED, torch.float32, torch.device("cpu"))
    assert num_pages_for(size, PUBLISHED, torch.float32, 16) == 2 * 8192 // 16 + 1


def test_a_small_model_gets_the_usual_pool() -> None:
    """A quarter of a GiB."""
    small = ChatGLM3Config(num_layers=2, hidden_size=64, num_attention_heads=4, kv_channels=16, seq_length=512)
    assert _kv_cache_bytes(CONFIG, small, torch.float32, torch.device("cpu")) == CPU_KV_BYTES


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_mode_of_computing_is_the_operators(deterministic: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """Nobody pays for equal bits who did not ask for them."""
    runner = build_runner(replace(CONFIG, model_path=str(TINY), kv_cache_bytes=2**24, deterministic=deterministic))
    assert isinstance(runner, DeterministicRunner) is deterministic


async def test_more_memory_than_there_is_is_refused_before_it_is_taken() -> None:
    """The engine's start says what the model would take; nothing is allocated, nobody is killed."""
    config = ReplicaConfig(str(CHECKPOINT), device="cpu", dtype="float32", threads=1, kv_cache_bytes=2**50)
    with pytest.raises(ConfigurationError, match=r"too little memory .*1048576\.00 GiB"):
        await build_engine(config).start(lambda _: None)


def test_what_changes_the_weights_changes_the_models_identity(tmp_path: Path) -> None:
    """Keys and values of one are none of the other's; a copy of an adapter is the same adapter, a changed one is not."""
    plain = replace(CONFIG, model_path=str(TINY))
    copy = Path(shutil.copytree(LORA, tmp_path / "copy"))
    changed = Path(shutil.copytree(LORA, tmp_path / "changed"))
    with (changed / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    configs = [plain, replace(plain, dtype="bfloat16"), replace(plain, quantize=8), replace(plain, quantize=4)]
    configs += [replace(plain, lora=str(lora)) for lora in (LORA, changed)] + [replace(plain, prefix=str(LORA))]
    ids = [_engine_config(config).model_id for config in configs]
    assert len(set(ids)) == len(configs)
    assert _engine_config(replace(plain, lora=str(copy))).model_id == ids[4]


def test_a_replica_loads_what_it_is_told_to() -> None:
    """Quantized linears in the blocks, the adapter merged before."""
    runner = build_runner(replace(CONFIG, model_path=str(TINY), kv_cache_bytes=2**24, quantize=4, lora=str(LORA)))
    modules = list(runner.model.modules())
    assert runner.model.config.quantization_bit == 4
    assert not any(isinstance(module, LoraLinear) for module in modules)
    assert sum(module.bits == 4 for module in modules if isinstance(module, QuantizedLinear)) == 4 * 3


def test_quantized_weights_are_counted_by_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no room for the full weights can have it for those."""
    config = replace(CONFIG, model_path=str(TINY), kv_cache_bytes=2**24)
    monkeypatch.setattr("cluster.replica.runner.free_memory", lambda: 2**24 + 700_000)
    with pytest.raises(ConfigurationError, match="too little memory"):
        build_runner(config)
    build_runner(replace(config, quantize=4))


def test_a_prefix_is_counted_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its encoder is kept in float32; a machine that holds the base alone does not hold both."""
    prefix = prefix_folder("ptuning_projection_tiny", tmp_path / "prefix")
    taken = (prefix / "model.safetensors").stat().st_size
    config = replace(CONFIG, model_path=str(TINY), kv_cache_bytes=2**24)
    base = weight_bytes(load_config(TINY), torch.float32)
    monkeypatch.setattr("cluster.replica.runner.free_memory", lambda: 2**24 + base + taken // 2)
    build_runner(config)
    with pytest.raises(ConfigurationError, match="too little memory"):
        build_runner(replace(config, prefix=str(prefix)))
