"""Everything dies, again and again, under 64 conversations: no turn is lost or doubled, and nobody sees a gap.

Clients, harm and judge are in this folder; the engine is one that computes nothing, so that a small machine can keep so
many turns alive. ``CHATGLM_TEST_SEED`` repeats the decisions of a run, though not its timing.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import msgspec
import pytest

from services.ports import unused_port
from tests.chaos.checker import check
from tests.chaos.connection import Caller
from tests.chaos.havoc import KINDS, Havoc, Times
from tests.chaos.kept import open_work, read_kept
from tests.chaos.record import Log, read_log
from tests.chaos.talker import Talker
from tests.chaos.tally import tally
from tests.support.cluster import MODEL, ClusterProcess
from tests.support.paced_command import APPLICATION_VARIABLE
from tests.support.proxy import TcpProxy, proxy_to
from tests.support.valkey import KEEPS_DATA, ValkeyServer, running_valkey

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
TALKERS = 64
TENANT = "default"
SETTLE_S = 90.0  # leases that run out, jobs that are reclaimed
SHORT = Times(pause=(2.0, 4.0), stop=(3.0, 9.0), stop_gateway=(16.0, 18.0), cut=(0.5, 3.0))  # a lease has 15 s


class TalkingCluster(ClusterProcess):
    """A cluster whose engines compute nothing, over a store that a test can cut off."""

    command = (sys.executable, "-m", "tests.support.paced_command")

    def __init__(self, state_dir: Path, redis_url: str) -> None:
        numbers = ("--replicas", "2", "--gateways", "2", "--dispatchers", "2")
        super().__init__(state_dir, *numbers, "--threads", "1", "--redis-url", redis_url)
        self.environment = {"PYTHONPATH": str(ROOT), APPLICATION_VARIABLE: "tests.support.talking_app:build"}


def a_seed() -> int:
    """Of this run."""
    return int(os.environ.get("CHATGLM_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


async def play(folder: Path, *, decks: int, times: Times) -> None:
    """Start a cluster, let clients talk while it is harmed, and judge what they saw."""
    seed = a_seed()
    sys.stdout.write(f"\n  seed {seed}, logs in {folder}")
    with running_valkey(port=unused_port(), options=KEEPS_DATA) as server:
        async with proxy_to(server.port) as store:
            cluster = TalkingCluster(folder / "state", f"redis://127.0.0.1:{store.port}")
            try:
                await asyncio.to_thread(cluster.start)
                await _talk(cluster, store, server, folder / "clients.jsonl", seed=seed, decks=decks, times=times)
                await _settle(server)
            finally:
                left = await asyncio.to_thread(cluster.stop)
            assert left == [], "processes outlived the cluster"
        judge(folder, server)


async def _talk(
    cluster: ClusterProcess, store: TcpProxy, server: ValkeyServer, path: Path, *, seed: int, decks: int, times: Times
) -> None:
    headers, limits = {"authorization": f"Bearer {cluster.key}"}, httpx.Limits(max_connections=None)
    client = httpx.AsyncClient(base_url=f"{cluster.url}/v1", headers=headers, limits=limits)
    with Log(path) as log:
        async with client, asyncio.TaskGroup() as talking:
            rngs = [random.Random(f"{seed} {number}") for number in range(TALKERS)]
            talkers = [Talker(f"t{n:02}", Caller(client, MODEL, log), rng) for n, rng in enumerate(rngs)]
            for talker in talkers:
                talking.create_task(talker.talk())
            havoc = Havoc(cluster, store, server, talkers, log, random.Random(seed), times)
            try:
                for _ in range(decks):
                    await havoc.deal()
            finally:
                await havoc.heal()
                for talker in talkers:
                    talker.stop()


async def _settle(server: ValkeyServer) -> None:
    """Wait for the work that is left; what stays in spite of that is for the judge."""
    end = time.monotonic() + SETTLE_S
    with server.client() as client:
        while open_work(client) and time.monotonic() < end:  # noqa: ASYNC110 - the cluster is another program
            await asyncio.sleep(0.2)


def judge(folder: Path, server: ValkeyServer) -> None:
    """Fail with what was found; the logs and what the store holds stay in the folder."""
    with server.client() as client:
        kept = read_kept(client, TENANT)
    (folder / "kept.json").write_bytes(msgspec.json.encode(kept))
    entries = read_log(folder / "clients.jsonl")
    counts = tally(entries, kept)
    tell(counts)
    faults = check(entries, kept)
    assert faults == [], f"{len(faults)} faults; logs in {folder}:\n" + "\n".join(faults[:40])
    assert min(counts[f"harm: {kind}"] for kind in KINDS) > 0


def tell(counts: Mapping[str, int]) -> None:
    """What the run has seen."""
    for name, count in sorted(counts.items()):
        sys.stdout.write(f"\n  {count:7} {name}")
    sys.stdout.write("\n")
    sys.stdout.flush()


@pytest.mark.timeout(450)
async def test_a_minute_of_chaos(tmp_path: Path) -> None:
    """One act of each kind."""
    await play(tmp_path, decks=1, times=SHORT)


@pytest.mark.heavy
@pytest.mark.timeout(1500)
async def test_ten_minutes_of_chaos(tmp_path: Path) -> None:
    """At least five acts of each kind."""
    await play(tmp_path, decks=5, times=Times())
