"""What a background turn costs from its acceptance to its end, behind a short and a long backlog, and who gets a turn.

Run: ``python -m tests.benchmarks.bench_dispatcher [--backlog N]``. A private Valkey server on a unix socket, two dispatcher
processes over the scripted backend (answers of 16 drawn words, eight ids a frame, no pause), full turn records: every job
is accepted by ``TurnService.enqueue``, claimed, generated, journalled, committed and settled.

A run fills the queue with its backlog and 3,000 jobs more, lets the dispatchers work and measures 2,000 of these, so
nobody produces meanwhile, and all of the backlog is there at the end. Ends with status 1 when two dispatchers do less than
200 jobs a second, when a job behind the long backlog costs more than 1.3 times as much CPU, or when small tenants wait.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import psutil
import redis

from services.conversations.redis_link import RedisLink
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.turns.events import GenerationOptions, Message, Role, StoredTurn
from services.turns.service import TurnService
from tests.support.dispatcher_process import parts_over, running_dispatcher
from tests.support.valkey import ValkeyServer, running_valkey

DISPATCHERS = 2
SLOTS = 64  # of each
WORDS = 16
SHORT = 100
WARM_UP = 1_000
MEASURED = 2_000
SIDE_BY_SIDE = 64
FLOOD = 10_000  # jobs of the large tenant
FEW = 50  # of each small one
LEAST_RATE = 200.0
MOST_RATIO = 1.3


@dataclass(frozen=True)
class Run:
    """One measurement: jobs a second; milliseconds of CPU a job, of both dispatchers together and of the server."""

    rate: float
    dispatcher_ms: float
    server_ms: float

    @property
    def cpu_ms(self) -> float:
        """Of all."""
        return self.dispatcher_ms + self.server_ms


class Bench:
    """A gateway that accepts turns, and an eye on the queue."""

    def __init__(self, turns: TurnService, queue: RedisQueue, client: redis.Redis) -> None:
        self._turns = turns
        self._queue = queue
        self._client = client

    async def fill(self, jobs: dict[str, int]) -> None:
        """So many jobs of each tenant accepted."""
        tenants = iter([tenant for tenant, count in jobs.items() for _ in range(count)])

        async def accept() -> None:
            for tenant in tenants:
                await self._turns.enqueue(a_job(tenant))

        await asyncio.gather(*(accept() for _ in range(SIDE_BY_SIDE)))

    async def left(self, *tenants: str) -> int:
        """Jobs waiting or in work, of these tenants or of all."""
        return sum(each.jobs for each in await self._queue.largest(10) if each.tenant in tenants or not tenants)

    async def down_to(self, jobs: int, *tenants: str) -> float:
        """When no more than so many are left, of these tenants or of all."""
        while await self.left(*tenants) > jobs:  # noqa: ASYNC110 - what is waited for is in a store
            await asyncio.sleep(0.02)
        return time.perf_counter()

    def server_s(self) -> float:
        """CPU seconds of the server so far."""
        cpu = self._client.info("cpu")
        return float(cpu["used_cpu_sys"] + cpu["used_cpu_user"])


def a_job(tenant: str) -> StoredTurn:
    """A short question that nobody waits for."""
    question = (Message(Role.USER, "Tell me the number of the day."),)
    return StoredTurn(tenant, "req_1", question, None, None, GenerationOptions(max_tokens=128), is_background=True)


@asynccontextmanager
async def bench_over(server: ValkeyServer) -> AsyncIterator[Bench]:
    """On an empty server."""
    server.flush()
    link = RedisLink(server.url)
    turns = TurnService(parts_over(link, words=WORDS))
    await turns.start()
    with server.client() as client:
        yield Bench(turns, RedisQueue(link, BACKGROUND, max_queued=10**6), client)
    await turns.stop()
    await link.close()


@contextmanager
def dispatchers(server: ValkeyServer) -> Iterator[list[psutil.Process]]:
    """Two at work."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(running_dispatcher(server.url, f"d{number}", words=WORDS, slots=SLOTS))
            for number in range(DISPATCHERS)
        ]
        yield [psutil.Process(process.pid) for process in started]


def cpu_s(processes: list[psutil.Process]) -> float:
    """CPU seconds of these so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def measure(server: ValkeyServer, backlog: int) -> Run:
    """Jobs with so many behind them."""
    async with bench_over(server) as bench:
        jobs = backlog + WARM_UP + MEASURED
        start, start_cpu = time.perf_counter(), time.process_time()
        await bench.fill({"acme": jobs})
        used_ms = (time.process_time() - start_cpu) / jobs * 1e3
        say(
            f"{jobs:,} jobs accepted by one process in {time.perf_counter() - start:.0f} s, {used_ms:.2f} ms of its CPU each"
        )
        with dispatchers(server) as workers:
            begin = await bench.down_to(backlog + MEASURED)
            before, server_before = cpu_s(workers), bench.server_s()
            end = await bench.down_to(backlog)
            used, server_used = cpu_s(workers) - before, bench.server_s() - server_before
    return Run(MEASURED / (end - begin), used / MEASURED * 1e3, server_used / MEASURED * 1e3)


async def overtaking(server: ValkeyServer) -> int:
    """How many jobs of a large tenant end from the moment that two small ones have queued theirs until those have ended."""
    async with bench_over(server) as bench:
        await bench.fill({"large": FLOOD})
        with dispatchers(server):
            await bench.down_to(FLOOD - WARM_UP)
            await bench.fill({"small": FEW, "other": FEW})
            before = await bench.left("large")
            await bench.down_to(0, "small", "other")
            return before - await bench.left("large")


def say(line: str) -> None:
    """The lines are the output."""
    print(line, flush=True)  # noqa: T201 - as it says


async def main(long: int) -> int:
    """Measure and print Markdown."""
    with running_valkey() as server:
        runs = {backlog: await measure(server, backlog) for backlog in (SHORT, long)}
        say("\n| jobs behind | jobs a second | ms of a dispatcher | ms of the server |\n|---|---|---|---|")
        for backlog, run in runs.items():
            say(f"| {backlog:,} | {run.rate:.0f} | {run.dispatcher_ms:.2f} | {run.server_ms:.2f} |")
        ratio = runs[long].cpu_ms / runs[SHORT].cpu_ms
        say(f"\nA job behind the long backlog costs **{ratio:.2f}** times as much CPU.")
        overtaken, fair = await overtaking(server), 2 * FEW + DISPATCHERS * SLOTS
        say(
            f"{FEW} jobs of each of two tenants ended before {overtaken} more of the {FLOOD:,} of a third (at most {fair})."
        )
    return int(runs[SHORT].rate < LEAST_RATE or ratio > MOST_RATIO or overtaken > fair)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--backlog", type=int, default=100_000)
    sys.exit(asyncio.run(main(parser.parse_args().backlog)))
