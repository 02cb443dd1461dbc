"""Limits that an operator gives travel to the engine of every replica, each under its own name."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest

from cluster.demo import CHECKPOINT
from cluster.replica.config import ReplicaConfig
from cluster.replica.engine import _engine_config
from services.args import AppArgs
from services.ports import unused_port
from services.preparation import prepare
from services.settings import read_settings
from services.state import StateFolder

LIMITS = {
    "max_num_seqs": 17,
    "max_batched_tokens": 300,
    "max_prefill_while_decoding": 31,
    "max_waiting": 9,
    "max_wait_s": 4.5,
    "max_named_tenants": 3,
}


@pytest.fixture
def args(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AppArgs:
    """The application's arguments, with every limit given as a variable of the environment."""
    for name, value in LIMITS.items():
        monkeypatch.setenv(f"CHATGLM_{name.upper()}", str(value))
    return prepare(read_settings(port=unused_port(), state_dir=tmp_path, device="cpu"), StateFolder(tmp_path), print)


COMPOSED = """
    import sys
    import msgspec
    from services.app import build

    gateway = build(msgspec.json.decode(sys.argv[1]))._bound_deployment
    bound = [each._bound_deployment for each in gateway.init_args if hasattr(each, "_bound_deployment")]
    (replica,) = [each for each in bound if each.name == "Replica"]
    print(msgspec.json.encode(replica.init_args[0]).decode())
"""


def replica_config(args: AppArgs) -> ReplicaConfig:
    """What the application hands to each replica; told by a process of its own, because importing Ray warns."""
    script = [sys.executable, "-c", textwrap.dedent(COMPOSED), args.model_dump_json()]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=ReplicaConfig)


def test_limits_reach_the_engine(args: AppArgs) -> None:
    """From the environment through the application's arguments and the replica's settings."""
    assert (args.model_path, LIMITS) == (str(CHECKPOINT), {name: getattr(args, name) for name in LIMITS})
    config = replica_config(args)
    assert LIMITS.items() <= asdict(config).items()
    assert LIMITS.items() <= asdict(_engine_config(config)).items()
