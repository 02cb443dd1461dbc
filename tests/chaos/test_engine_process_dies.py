"""Engines with processes of their own, in a real cluster: one that dies costs its streams a pause, and nothing is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.cluster import MODEL, ClusterProcess
from tests.support.streams import Crowd
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.heavy, pytest.mark.timeout(600)]

ENGINE = "cluster.engine.process"
STREAMS = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """Two float32 replicas, each with its engine beside it."""
    options = ("--dtype", "float32", "--threads", "1", "--engine-process")
    running = ClusterProcess(tmp_path_factory.mktemp("engines") / "state", *options)
    running.start()
    yield running
    assert running.stop() == [], "processes outlived the cluster"


def engines(cluster: ClusterProcess) -> dict[int, psutil.Process]:
    """The engine's process of each replica, by the replica's process."""
    return {process.ppid(): process for process in cluster.named(ENGINE)}


def replica_pids(cluster: ClusterProcess) -> set[int]:
    """Processes of the replicas that serve."""
    return {replica["pid"] for replica in cluster.status()["replicas"] if replica["state"] == "RUNNING"}


def bodies() -> list[dict[str, Any]]:
    """Seeded turns, each of a length that the kill falls into."""
    return [
        {
            "model": MODEL,
            "input": f"Tell me story {place} about the {place * 37} ships of the town.",
            "max_output_tokens": 240,
            "ignore_eos": True,
            "seed": place,
            "temperature": 0.8,
        }
        for place in range(STREAMS)
    ]


async def test_a_killed_engine_costs_its_streams_a_pause_and_its_replica_is_replaced(cluster: ClusterProcess) -> None:
    """Every stream ends with the words it has undisturbed; a replica with a living engine takes the dead one's place."""
    async with Crowd(cluster.url, cluster.key) as crowd:
        expected = [stream.text for stream in await crowd.run(bodies())]
        tasks = crowd.start(bodies())
        await crowd.reach(40)
        before = engines(cluster)
        assert set(before) == replica_pids(cluster)
        ranks = [stream.rank for stream in crowd.streams]
        busiest = max(set(ranks), key=ranks.count)
        victim = next(r["pid"] for r in cluster.status()["replicas"] if str(r["rank"]) == busiest)
        before[victim].kill()
        await asyncio.gather(*tasks)
    assert {(stream.error, stream.last) for stream in crowd.streams} == {("", "response.incomplete")}
    assert [stream.text for stream in crowd.streams] == expected
    assert cluster.status()["turns"]["failovers"] >= ranks.count(busiest) // 2
    wait_until(lambda: cluster.serves(2, without=victim), timeout_s=60, what="the replacement serves")
    assert set(engines(cluster)) == replica_pids(cluster)


def test_a_killed_replica_takes_its_engine_along(cluster: ClusterProcess) -> None:
    """Kill -9 leaves no engine behind that would hold the device."""
    victim, engine = next(iter(engines(cluster).items()))
    psutil.Process(victim).kill()
    wait_until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, what="the engine's end")
    wait_until(lambda: cluster.serves(2, without=victim), timeout_s=60, what="the replacement serves")
