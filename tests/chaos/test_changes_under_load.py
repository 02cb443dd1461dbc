"""Scaling and rolling restarts under streams: nothing fails and nothing is cut.

Ray Serve reloads HAProxy whenever a gateway comes or goes. A request that meets the end of an old HAProxy on a kept
connection is dropped unread, which clients notice by the missing answer: they send it again, as OpenAI's own does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.streams import Crowd, Watched

pytestmark = [pytest.mark.cluster, pytest.mark.heavy, pytest.mark.timeout(600)]

CLIENTS = 12
TOKENS = 1200


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """A cluster of two replicas and two gateways whose drains move what is left after a second."""
    folder = tmp_path_factory.mktemp("changing") / "state"
    running = ClusterProcess(folder, "--threads", "1", "--gateways", "2", "--drain-grace-s", "1")
    running.start()
    yield running
    assert running.stop() == [], "processes outlived the cluster"


class Load:
    """Clients that stream one answer after the other until they are told to stop."""

    def __init__(self, cluster: ClusterProcess) -> None:
        self._cluster = cluster
        self._is_over = False
        self.streams: list[Watched] = []

    async def client(self, number: int) -> None:
        """One client."""
        async with Crowd(self._cluster.url, self._cluster.key, retries=2) as crowd:
            while not self._is_over:
                text = f"Tell me story {len(self.streams)} of client {number}."
                body = {"model": MODEL, "input": text, "max_output_tokens": TOKENS, "ignore_eos": True}
                self.streams += await crowd.run([body])

    def stop(self) -> None:
        """Let every client end its answer."""
        self._is_over = True


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for the cluster while its clients go on."""
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - the cluster is another program
            await asyncio.sleep(0.2)
    sys.stdout.write(f"\n  {what}")


async def test_scaling_and_restarting_under_load_cuts_nothing(changing: ClusterProcess) -> None:
    """Two replicas, three, two, then all of them new: every stream ends by its own limit, in order."""
    load = Load(changing)
    tasks = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]

    def order(*arguments: str) -> None:
        done = run_command(*arguments, state_dir=changing.state_dir)
        assert done.returncode == 0, done.stderr

    def is_third_busy() -> bool:
        third = next(replica for replica in changing.status()["replicas"] if replica["rank"] == 2)
        return bool(third["load"] and third["load"]["running"] > 1)

    def is_new() -> bool:
        status = changing.status()
        now = {process["incarnation"] for process in [*status["replicas"], *status["gateways"]]}
        return not before & now and len(now) == 4

    await asyncio.to_thread(order, "scale", "--replicas", "3")
    await until(lambda: changing.serves(3), "three replicas")
    await until(is_third_busy, "the third one has answers to lose")
    await asyncio.to_thread(order, "scale", "--replicas", "2")
    await until(lambda: changing.serves(2), "two replicas")
    await until(
        lambda: changing.status()["turns"]["failovers"] > 0, "an answer outlasted the grace and went on elsewhere"
    )
    status = changing.status()
    moves = status["turns"]["failovers"]
    before = {process["incarnation"] for process in [*status["replicas"], *status["gateways"]]}
    await asyncio.to_thread(order, "restart")
    await until(is_new, "all new")
    load.stop()
    await asyncio.gather(*tasks)
    assert len(load.streams) > 2 * CLIENTS
    for stream in load.streams:
        assert (stream.error, stream.last) == ("", "response.incomplete")
        assert stream.sequence == list(range(stream.sequence[0], stream.sequence[0] + len(stream.sequence)))
    retries = sum(stream.retries for stream in load.streams)
    sys.stdout.write(
        f"\n  {len(load.streams)} streams, none cut; {moves} went on elsewhere, {retries} requests sent again\n"
    )
