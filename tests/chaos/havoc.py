"""Harm to a running cluster, at random and one thing after the other, while its clients are in their turns.

A deck of all kinds of harm is shuffled and dealt again and again, so that each comes equally often; what takes longest
to be noticed comes first, so that little is left to be waited for. Only processes of this cluster are touched. At least one replica that serves is left alone, for without any there is nobody to go on with
an answer, and the API says so; of gateways and dispatchers nothing is spared.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.chaos.record import Act, Log, now
from tests.chaos.talker import Talker
from tests.support.cluster import ClusterProcess
from tests.support.proxy import Flow, TcpProxy
from tests.support.valkey import ValkeyServer

DEPLOYMENTS: Final = ("Replica", "Gateway", "Dispatcher")
CUTS: Final = {"refused": Flow.REFUSED, "stalled": Flow.STALLED, "deaf": Flow.DEAF}
KINDS: Final = (
    *(f"{how} {who}" for how in ("kill", "stop") for who in DEPLOYMENTS),
    *(f"redis {cut}" for cut in (*CUTS, "killed")),
)
SLOW: Final = ("kill Dispatcher", "stop Dispatcher", "stop Gateway")  # noticed when a lease or a job's time runs out
READY_AGE_S: Final = 10.0  # what a process takes to serve, on a busy machine
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Times:
    """Ranges in seconds: between acts, of a stopped process, of a stopped gateway, of a cut connection."""

    pause: tuple[float, float] = (8.0, 13.0)
    stop: tuple[float, float] = (3.0, 20.0)
    stop_gateway: tuple[float, float] = (3.0, 20.0)
    cut: tuple[float, float] = (0.5, 8.0)

    def of(self, deployment: str) -> tuple[float, float]:
        """For how long a process is stopped."""
        return self.stop_gateway if deployment == "Gateway" else self.stop


@dataclass
class Havoc:
    """Harms a cluster. ``deal`` some decks, then ``heal``."""

    cluster: ClusterProcess
    store: TcpProxy
    server: ValkeyServer
    talkers: Sequence[Talker]
    log: Log
    rng: random.Random
    times: Times = field(default_factory=Times)
    _stopped: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    async def deal(self) -> None:
        """One act of each kind."""
        deck = self.rng.sample(KINDS, len(KINDS))
        for kind in sorted(deck, key=lambda kind: kind not in SLOW):
            await asyncio.sleep(self.rng.uniform(*self.times.pause))
            await self._act(kind)

    async def heal(self) -> None:
        """Let every process that is stopped go on."""
        await asyncio.gather(*self._stopped.values())

    async def _act(self, kind: str) -> None:
        how, _, what = kind.partition(" ")
        if how == "redis":
            await self._cut(kind, what)
            return
        victim = await self._victim(what)
        seconds = self.rng.uniform(*self.times.of(what)) if how == "stop" else 0.0
        await self._note(kind, f"process {victim.pid}", seconds)
        if how == "kill":
            victim.kill()
        else:
            victim.send_signal(signal.SIGSTOP)
            self._stopped[victim.pid] = asyncio.create_task(self._wake(victim, seconds))

    async def _cut(self, kind: str, what: str) -> None:
        seconds = self.rng.uniform(*self.times.cut)
        await self._note(kind, "store", seconds)
        if what == "killed":
            self.server.kill()
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self.server.start)
            return
        await self.store.set(CUTS[what])
        await asyncio.sleep(seconds)
        await self.store.set(Flow.PASSES)

    async def _note(self, kind: str, victim: str, seconds: float) -> None:
        """Wait until at least half of the conversations are in a turn; write the act down, which follows at once."""
        async with asyncio.timeout(PATIENCE_S):
            while (in_turn := sum(talker.is_in_turn for talker in self.talkers)) * 2 < len(self.talkers):  # noqa: ASYNC110 - asked a few times
                await asyncio.sleep(0.02)
        act = Act(at=now(), kind=kind, victim=victim, seconds=seconds, in_turn=in_turn, talkers=len(self.talkers))
        self.log.write(act)
        sys.stdout.write(f"\n  {kind}: {victim}, {seconds:.1f} s, {in_turn} of {len(self.talkers)} in a turn")
        sys.stdout.flush()

    async def _victim(self, deployment: str) -> psutil.Process:
        """A process of a deployment that is not stopped; of replicas, one that is not the last that serves."""
        least = 2 if deployment == "Replica" else 1
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await asyncio.to_thread(self._serving, deployment)) < least:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.2)
        return self.rng.choice(found)

    def _serving(self, deployment: str) -> list[psutil.Process]:
        found = self.cluster.named(f"ServeReplica:chatglm:{deployment}")
        ready = [p for p in found if time.time() - p.create_time() > READY_AGE_S]
        return sorted((p for p in ready if p.pid not in self._stopped), key=lambda process: process.pid)

    async def _wake(self, victim: psutil.Process, seconds: float) -> None:
        await asyncio.sleep(seconds)
        with contextlib.suppress(psutil.NoSuchProcess):  # Serve may have replaced it meanwhile
            victim.send_signal(signal.SIGCONT)
        del self._stopped[victim.pid]
