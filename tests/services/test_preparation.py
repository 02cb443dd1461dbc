"""From the operator's wishes to the application's arguments."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.demo import CHECKPOINT
from cluster.errors import CheckpointError, ConfigurationError
from services.ports import unused_port
from services.preparation import _engine_process, _is_native, check_port, default_threads, prepare
from services.settings import RANDOM, read_settings
from services.state import StateFolder
from tests.support.native import require_native
from tests.support.valkey import running_valkey

DATA = Path(__file__).parents[1] / "parity" / "data"
TINY, LORA = DATA / "tiny", DATA / "goldens" / "lora_tiny"


@pytest.mark.parametrize(("cores", "replicas", "threads"), [(1, 1, 1), (2, 1, 1), (2, 2, 1), (16, 1, 15), (16, 4, 3)])
def test_one_core_is_left_to_the_rest_of_the_cluster(cores: int, replicas: int, threads: int) -> None:
    """Threads that wait for each other must not lose a core to a gateway."""
    assert default_threads(cores, replicas, native=False) == threads


@pytest.mark.parametrize(("cores", "replicas", "threads"), [(1, 1, 1), (2, 1, 2), (2, 2, 1), (16, 3, 5), (2, 4, 1)])
def test_threads_that_wait_for_nobody_share_all_cores(cores: int, replicas: int, threads: int) -> None:
    """The C step's work is taken piece by piece."""
    assert default_threads(cores, replicas, native=True) == threads


def test_without_a_model_the_demo_model_of_the_package_is_served(tmp_path: Path) -> None:
    """Under its own name, which the operator may change; nothing is written."""
    args = prepare(read_settings(port=unused_port(), state_dir=tmp_path, device="cpu"), StateFolder(tmp_path), print)
    assert (args.model_path, args.model_name) == (str(CHECKPOINT), "chatglm3-demo")
    assert not args.deterministic
    settings = read_settings(
        port=unused_port(), state_dir=tmp_path, device="cpu", model_name="ours", deterministic=True
    )
    other = prepare(settings, StateFolder(tmp_path), print)
    assert (other.model_name, other.deterministic) == ("ours", True)
    assert list(tmp_path.iterdir()) == []


def test_a_random_model_is_made_once_and_said_to_be_random(tmp_path: Path) -> None:
    """The second start finds the first one's checkpoint."""
    said: list[str] = []
    settings = read_settings(port=unused_port(), state_dir=tmp_path, device="cpu", model=RANDOM)
    first = prepare(settings, StateFolder(tmp_path), said.append)
    written = Path(first.model_path, "model.safetensors").stat().st_mtime_ns
    assert prepare(settings, StateFolder(tmp_path), said.append) == first
    assert Path(first.model_path, "model.safetensors").stat().st_mtime_ns == written
    assert sum("RANDOM" in line for line in said) == 2
    assert (first.dtype, first.model_name) == ("float32", "chatglm3")


def test_what_is_applied_to_the_weights_travels_on(tmp_path: Path) -> None:
    """As numbers and absolute paths."""
    options = {"port": unused_port(), "state_dir": tmp_path, "device": "cpu", "model": TINY}
    plain = prepare(read_settings(**options), StateFolder(tmp_path), print)
    assert (plain.quantize, plain.lora, plain.prefix) == (0, "", "")
    args = prepare(read_settings(**options, quantize=8, lora=LORA), StateFolder(tmp_path), print)
    assert (args.quantize, args.lora) == (8, str(LORA))


def test_an_adapter_that_does_not_fit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """The demo model has other shapes."""
    settings = read_settings(port=unused_port(), state_dir=tmp_path, device="cpu", lora=LORA)
    with pytest.raises(CheckpointError, match=r"lora_tiny: the adapter.s tensors"):
        prepare(settings, StateFolder(tmp_path), print)
    settings = read_settings(port=unused_port(), state_dir=tmp_path, device="cpu", prefix=tmp_path)
    with pytest.raises(CheckpointError, match="holds no weights"):
        prepare(settings, StateFolder(tmp_path), print)


def test_a_truncated_checkpoint_is_refused_by_file(tmp_path: Path) -> None:
    """Before anything is started, with the name of the file."""
    made = shutil.copytree(TINY, tmp_path / "tiny")
    weights = made / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        prepare(
            read_settings(port=unused_port(), state_dir=tmp_path, device="cpu", model=made),
            StateFolder(tmp_path),
            lambda _: None,
        )


def test_a_pool_too_small_for_one_conversation_is_refused_with_the_size_that_would_do(tmp_path: Path) -> None:
    """Before anything is started."""
    settings = read_settings(port=unused_port(), state_dir=tmp_path, device="cpu", kv_cache_gib=0.001)
    with pytest.raises(ConfigurationError, match="needs at least"):
        prepare(settings, StateFolder(tmp_path), lambda _: None)


def test_a_port_in_use_is_named() -> None:
    """Another server's port is refused before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigurationError, match="--port"):
        check_port(other.getsockname()[1])


def test_a_missing_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for CUDA on a machine without it stops at once."""
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(ConfigurationError, match="--device cuda"):
        prepare(
            read_settings(port=unused_port(), state_dir=tmp_path, device="cuda", model=tmp_path),
            StateFolder(tmp_path),
            lambda _: None,
        )


@pytest.mark.parametrize(
    ("is_fast", "asked", "has_own"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_an_engine_has_a_process_of_its_own_where_steps_are_fast_or_where_asked_for(
    is_fast: bool,  # noqa: FBT001 -- parameters of the test
    asked: bool | None,  # noqa: FBT001 -- likewise
    has_own: bool,  # noqa: FBT001 -- likewise
) -> None:
    """The operator's word counts before the default."""
    assert _engine_process(read_settings(engine_process=asked), is_fast=is_fast) is has_own


@pytest.mark.parametrize(
    ("options", "is_native"),
    [({}, True), ({"quantize": 8}, False), ({"prefix": "p"}, False)],
)
def test_what_the_c_step_does_not_compute_gets_the_threads_of_torch(options: dict[str, Any], is_native: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    """Quantized weights and tuned prefixes; other dtypes and devices too."""
    require_native()
    settings = read_settings(**options)
    assert _is_native(settings, "cpu", "bfloat16") is is_native
    assert not _is_native(settings, "cpu", "float32")
    assert not _is_native(settings, "cuda", "bfloat16")


@pytest.mark.valkey
def test_a_store_is_looked_at_before_the_checkpoint(tmp_path: Path) -> None:
    """One that evicts is refused while nothing has been loaded; one that keeps nothing is warned of."""
    said: list[str] = []
    with running_valkey() as server:
        options: dict[str, Any] = {"port": unused_port(), "state_dir": tmp_path, "redis_url": server.url}
        with pytest.raises(CheckpointError):
            prepare(read_settings(**options, model=tmp_path), StateFolder(tmp_path), said.append)
        assert "WARNING: The store at" in said[0]
        assert "keeps nothing on disk" in said[0]
        with server.client() as client:
            client.config_set("maxmemory", "100mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigurationError, match="set maxmemory-policy noeviction"):
            prepare(read_settings(**options, model=tmp_path), StateFolder(tmp_path), said.append)
    assert len(said) == 2
