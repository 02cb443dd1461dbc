"""More than a replica can bear: turns are refused with a time that is true, and another replica comes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.streams import Crowd, Watched
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.heavy, pytest.mark.timeout(240)]

CLIENTS = 6  # for four places in the batch
RUSH = 150
TIMEOUT_S = 60
MAX_WAIT_S = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """A cluster of one replica that may become two within a second, and one again after five quiet ones."""
    folder = tmp_path_factory.mktemp("small") / "state"
    bounds = ("--replicas", "1", "--max-replicas", "2", "--scale-up-delay-s", "1", "--scale-down-delay-s", "5")
    queue = ("--max-num-seqs", "4", "--max-wait-s", str(MAX_WAIT_S))
    running = ClusterProcess(folder, *bounds, *queue, "--threads", "1")
    running.start()
    yield running
    assert running.stop() == [], "processes outlived the cluster"


def serving(cluster: ClusterProcess) -> list[str]:
    """The incarnations of the replicas that serve, by rank."""
    status = cluster.status()
    replicas = [replica for replica in status["replicas"] if replica["state"] == "RUNNING"]
    return [replica["incarnation"] for replica in sorted(replicas, key=lambda replica: replica["rank"] or 0)]


def body(text: str) -> dict[str, object]:
    return {"model": MODEL, "input": text, "max_output_tokens": 64, "ignore_eos": True}


async def load(cluster: ClusterProcess, condition: Callable[[], bool]) -> list[Watched]:
    """Some clients ask and ask again until the condition holds; all answers."""
    answers: list[Watched] = []

    async def one(number: int, is_over: asyncio.Event) -> None:
        async with Crowd(cluster.url, cluster.key) as crowd:
            while not is_over.is_set():
                answers.extend(await crowd.run([body(f"Tell me story {len(answers)} of client {number}.")]))

    is_over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(one(number, is_over))
        try:
            await asyncio.to_thread(wait_until, condition, timeout_s=TIMEOUT_S, what="the replicas follow the load")
        finally:
            is_over.set()
    return answers


async def test_replicas_follow_the_load_and_the_first_one_stays(small: ClusterProcess) -> None:
    """Load brings a second replica, another number of gateways replaces nobody, and quiet takes the second away."""
    await asyncio.to_thread(wait_until, lambda: len(serving(small)) == 1, timeout_s=TIMEOUT_S, what="it is quiet")
    (first,) = serving(small)
    answers = await load(small, lambda: len(serving(small)) == 2)
    assert {(answer.error, answer.last) for answer in answers} == {("", "response.incomplete")}
    both = serving(small)
    assert both[0] == first
    changed = run_command("scale", "--gateways", "2", state_dir=small.state_dir)
    assert changed.returncode == 0, changed.stderr
    wait_until(lambda: len(small.status()["gateways"]) == 2, timeout_s=TIMEOUT_S, what="a second gateway serves")
    assert serving(small) == both
    wait_until(lambda: serving(small) == [first], timeout_s=TIMEOUT_S, what="the second replica goes")


@dataclass
class Guest:
    """A client of the rush: how often it was sent away, and for how long in all."""

    refusals: int = 0
    told_s: float = 0.0
    status: int = 0

    async def ask(self, client: httpx.AsyncClient, number: int) -> None:
        """Come back when told to, until there is an answer."""
        while True:
            reply = await client.post("/responses", json=body(f"What is the number {number}?"))
            self.status = reply.status_code
            if self.status != httpx.codes.TOO_MANY_REQUESTS:
                return
            told_s = int(reply.headers["retry-after"])
            assert 1 <= told_s <= 60
            self.refusals += 1
            self.told_s += told_s
            await asyncio.sleep(told_s)


async def test_rush_is_refused_with_a_time_and_served_in_the_end(small: ClusterProcess) -> None:
    """Who finds the queue too long hears 429 with a time, and who keeps to it is answered: no error, no restart."""
    headers = {"authorization": f"Bearer {small.key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"{small.url}/v1", headers=headers, timeout=120, limits=limits) as client:
        await asyncio.gather(
            *(Guest().ask(client, number) for number in range(12))
        )  # a queue without a pace refuses nobody
        guests = [Guest() for _ in range(RUSH)]
        await asyncio.gather(*(guest.ask(client, number) for number, guest in enumerate(guests)))
    assert {guest.status for guest in guests} == {httpx.codes.OK}
    refused = [guest for guest in guests if guest.refusals]
    assert refused, "the rush was too small"
    assert len(refused) < RUSH
    told_s = sum(guest.told_s for guest in refused) / len(refused)
    often = max(guest.refusals for guest in refused)
    sys.stdout.write(f"\n  {len(refused)} of {RUSH} were refused, for {told_s:.1f} s on average, at most {often} times")
