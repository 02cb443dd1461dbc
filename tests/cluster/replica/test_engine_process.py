"""A replica's engine in a process of its own: the same answers, and no torch in the replica."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import CheckpointError, ConfigurationError
from cluster.protocol import GenerateRequest, SamplingParams
from cluster.replica.config import ReplicaConfig
from cluster.replica.engine import build_engine
from tests.fakes.listener import Listener

TINY = Path(__file__).parents[2] / "parity" / "data" / "tiny"
CONFIG = ReplicaConfig(str(TINY), device="cpu", dtype="float32", threads=1, kv_cache_bytes=2**24, engine_process=True)

FREE = re.compile(r"only \S+ GiB are free")  # it changes from one moment to the next

REPLICA = """
    import asyncio, sys
    import cluster.replica.deployment
    from cluster.replica.config import ReplicaConfig
    from cluster.replica.engine import build_engine

    async def serve(engine):
        await engine.start(print)
        await engine.stop()

    asyncio.run(serve(build_engine(ReplicaConfig(sys.argv[1], "cpu", "float32", 1, 2**24, engine_process=True))))
    print(sorted({"torch", "safetensors"} & sys.modules.keys()))
"""

CHILD = """
    import sys
    import cluster.engine.process.child, cluster.replica.engine, cluster.replica.runner
    print(sorted(name for name in sys.modules if name.partition(".")[0] in {"ray", "services", "transformers"}))
"""


def requests() -> list[GenerateRequest]:
    """Greedy and drawn answers side by side."""
    return [
        GenerateRequest(
            attempt=i,
            request_id=f"r{i}",
            tenant="a",
            prompt_ids=[64790, 64792, 100 + i, 200, 300][2:] if i % 2 else [5 + i, 6, 7, 8, 9, 10, 11],
            sampling=SamplingParams(max_new_tokens=16, temperature=0.0 if i < 2 else 1.0, seed=i),
        )
        for i in range(4)
    ]


async def answers(config: ReplicaConfig) -> dict[int, list[int]]:
    """The ids of all requests, one after another, so that no batch differs between two engines."""
    engine, listener = build_engine(config), Listener()
    await engine.start(listener)
    try:
        for request in requests():
            await engine.submit(request)
            await listener.finish(request.attempt)
    finally:
        await engine.stop()
    return listener.ids


def output_of(program: str, *arguments: str) -> str:
    """The last line of a Python program."""
    script = "\n".join(line[4:] for line in program.splitlines())
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


async def test_ids_are_those_of_the_engine_in_a_thread() -> None:
    """Greedy and seeded, from the same checkpoint."""
    own, local = await asyncio.gather(answers(CONFIG), answers(replace(CONFIG, engine_process=False)))
    assert own == local
    assert [len(ids) for ids in own.values()] == [16] * 4


def test_the_replica_has_no_torch() -> None:
    """Serving with the engine elsewhere costs the replica's process neither the import nor its memory."""
    assert output_of(REPLICA, str(TINY)) == "[]"


def test_the_engine_has_neither_ray_nor_the_services() -> None:
    """It would not start faster with them, nor be allowed to use them."""
    assert output_of(CHILD) == "[]"


async def test_what_cannot_be_loaded_is_told_as_by_an_engine_in_a_thread(tmp_path: Path) -> None:
    """Same class, same sentence: a folder that is none, and more memory than there is."""
    with pytest.raises(CheckpointError, match=r"config\.json"):
        build_engine(replace(CONFIG, model_path=str(tmp_path)))
    for file in TINY.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for config in (replace(CONFIG, model_path=str(tmp_path)), replace(CONFIG, kv_cache_bytes=2**50)):
        own, local = [await failure(replace(config, engine_process=own)) for own in (True, False)]
        assert type(own) is type(local)
        assert isinstance(own, CheckpointError | ConfigurationError)
        assert FREE.sub("", str(own)) == FREE.sub("", str(local))


async def failure(config: ReplicaConfig) -> Exception:
    """What start raises."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 -- compared by the caller
        await build_engine(config).start(lambda _: None)
    return raised.value
