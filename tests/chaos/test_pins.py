"""Where conversations are served while replicas live, die, freeze and are replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.cluster import ClusterProcess, run_command
from tests.support.streams import Crowd
from tests.support.talkers import Talker
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.heavy, pytest.mark.timeout(600)]

REPLICAS = 3
TALKERS = 48
AT_ONCE = 8


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """A cluster of three replicas, to be broken."""
    folder = tmp_path_factory.mktemp("pins") / "state"
    running = ClusterProcess(folder, "--replicas", str(REPLICAS), "--threads", "1")
    running.start()
    yield running
    assert running.stop() == [], "processes outlived the cluster"


class Hall:
    """All conversations."""

    def __init__(self, crowd: Crowd, talkers: list[Talker]) -> None:
        self._crowd = crowd
        self.talkers = talkers

    async def talk(self, text: str) -> None:
        """One turn of each, a few at a time, so that no replica is at capacity."""
        places = asyncio.Semaphore(AT_ONCE)

        async def say(talker: Talker) -> None:
            async with places:
                await talker.say(self._crowd.client, text)

        await asyncio.gather(*(say(talker) for talker in self.talkers))

    def largest(self, cluster: ClusterProcess) -> tuple[list[Talker], int]:
        """The conversations of the replica that holds most of them, and its process."""
        ranks = [talker.ranks[-1] for talker in self.talkers]
        rank = max(set(ranks), key=ranks.count)
        pid = next(r["pid"] for r in cluster.status()["replicas"] if str(r["rank"]) == rank)
        return [talker for talker in self.talkers if talker.ranks[-1] == rank], int(pid)

    def moved(self) -> list[Talker]:
        """Those whose latest turn was served elsewhere than the one before."""
        return [talker for talker in self.talkers if talker.ranks[-1] != talker.ranks[-2]]

    def reasons(self) -> set[str]:
        """Of the latest turns."""
        return {talker.whys[-1] for talker in self.talkers}


@pytest.fixture
async def hall(three: ClusterProcess) -> AsyncIterator[Hall]:
    """Conversations that have had three turns each, all where they began."""
    async with Crowd(three.url, three.key) as crowd:
        stored = [Talker(f"S{n}", await crowd.conversation()) for n in range(TALKERS // 2)]
        hall = Hall(crowd, [*stored, *(Talker(f"T{n}") for n in range(TALKERS // 2))])
        for text in ("Hello!", "What is pinning?", "Thanks!"):
            await hall.talk(text)
            assert hall.reasons() == {"pinned"}
        assert all(len(set(talker.ranks)) == 1 for talker in hall.talkers)
        assert len({talker.ranks[0] for talker in hall.talkers}) > 1  # one may still be under suspicion
        yield hall


async def test_a_death_moves_its_conversations_once_and_nobody_else(three: ClusterProcess, hall: Hall) -> None:
    """Nor does anybody move back when the replacement has come."""
    victims, victim = hall.largest(three)
    os.kill(victim, signal.SIGKILL)
    await hall.talk("Are you still there?")
    assert {t.name for t in hall.moved()} == {t.name for t in victims}
    assert {t.whys[-1] for t in victims} == {"moved"}
    wait_until(lambda: three.serves(REPLICAS, without=victim), timeout_s=60, what="the replacement serves")
    for text in ("And now?", "Good."):
        await hall.talk(text)
        assert (hall.moved(), hall.reasons()) == ([], {"pinned"})


async def test_a_frozen_replica_loses_its_conversations_once(three: ClusterProcess, hall: Hall) -> None:
    """It is alive again later, and nobody goes back."""
    victims, frozen = hall.largest(three)
    os.kill(frozen, signal.SIGSTOP)
    try:
        await hall.talk("Are you still there?")
        assert {t.name for t in hall.moved()} == {t.name for t in victims}
        await hall.talk("And now?")
        assert hall.moved() == []
    finally:
        os.kill(frozen, signal.SIGCONT)
    wait_until(lambda: three.serves(REPLICAS), timeout_s=60, what="all serve")
    await hall.talk("Good.")
    assert (hall.moved(), hall.reasons()) == ([], {"pinned"})


async def test_a_rolling_restart_fails_no_turn(three: ClusterProcess, hall: Hall) -> None:
    """Everybody's replica is replaced once; when it is over, everybody stays."""
    before = {replica["incarnation"] for replica in three.status()["replicas"]}
    assert run_command("restart", state_dir=three.state_dir).returncode == 0

    def is_over() -> bool:
        return three.serves(REPLICAS) and not before & {
            replica["incarnation"] for replica in three.status()["replicas"]
        }

    while not is_over():
        await hall.talk("Still there?")
    await hall.talk("And now?")
    await hall.talk("Good.")
    assert (hall.moved(), hall.reasons()) == ([], {"pinned"})
