"""What a job costs in the queue, and whether a long backlog makes it dearer.

Run: ``python -m tests.benchmarks.bench_queue``. A private Valkey server on a unix socket, one client process. Two classes
of one server hold a backlog of 100 and of 100,000 jobs; each cycle publishes, takes and settles one, so the backlogs
stay as they are, and rounds of the two take turns, so that a slow moment of the machine falls on both alike. Ends with
status 1 when a job behind the long one costs the server more than 1.5 times as much. Half a minute.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import redis

from services.conversations.redis_link import RedisLink
from services.queue.base import Done
from services.queue.keys import BACKGROUND, BATCH
from services.queue.redis_queue import RedisQueue
from tests.support.jobs import a_turn
from tests.support.valkey import ValkeyServer, running_valkey

SHORT: Final = 100
LONG: Final = 100_000
TENANTS: Final = (1, 1000)
ROUNDS: Final = 7
CYCLES: Final = 400  # a round
SIDE_BY_SIDE: Final = 16
MOST_RATIO: Final = 1.5
CALLS: Final = ("publish", "take", "settle")


@dataclass(frozen=True)
class Cost:
    """Medians over rounds, µs a job: what the server computed, and what passed for one client that does one at a time."""

    server: dict[str, float]
    passed: dict[str, float]

    @property
    def server_us(self) -> float:
        """All three calls."""
        return sum(self.server.values())


class Bench:
    """One backlog, and the tenants that it belongs to."""

    def __init__(self, link: RedisLink, client: redis.Redis, name: str, tenants: int) -> None:
        self.queue = RedisQueue(link, name, max_queued=2 * LONG)
        self._client = client
        self._tenants = [f"t-{number}" for number in range(tenants)]
        self._server: dict[str, list[float]] = {call: [] for call in CALLS}
        self._passed: dict[str, list[float]] = {call: [] for call in CALLS}
        self._published = 0

    async def publish(self) -> None:
        """One more job, of the next tenant."""
        self._published += 1
        await self.queue.publish(self._tenants[self._published % len(self._tenants)], a_turn())

    async def fill(self, jobs: int) -> None:
        """So many jobs, many at a time."""
        for _ in range(0, jobs, 100):
            await asyncio.gather(*(self.publish() for _ in range(100)))

    async def round(self) -> None:
        """So many jobs published, then taken, then settled; the backlog is what it was."""
        await self._measure("publish", [self.publish] * CYCLES)
        taken = []

        async def take() -> None:
            taken.append(await self.queue.take("c"))

        await self._measure("take", [take] * CYCLES)
        await self._measure("settle", [lambda entry=entry: self.queue.settle(entry, Done()) for entry in taken])

    def cost(self) -> Cost:
        """Of all rounds."""
        return Cost(*({call: statistics.median(each[call]) for call in CALLS} for each in (self._server, self._passed)))

    async def _measure(self, call: str, calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
        self._client.config_resetstat()
        start = time.perf_counter()
        for each in calls:
            await each()
        self._passed[call].append((time.perf_counter() - start) / len(calls) * 1e6)
        self._server[call].append(self._client.info("commandstats")["cmdstat_evalsha"]["usec"] / len(calls))


async def main() -> int:
    """Measure and print Markdown."""
    ratios = []
    with running_valkey() as server:
        for tenants in TENANTS:
            short, long, memory = await compare(server, tenants)
            ratios.append(long.server_us / short.server_us)
            print(table(tenants, short, long, memory))  # noqa: T201 -- the tables are the output
        print(await rates(server))  # noqa: T201 -- as above
    return int(max(ratios) > MOST_RATIO)


async def compare(server: ValkeyServer, tenants: int) -> tuple[Cost, Cost, float]:
    """Costs behind the short and the long backlog, and bytes a waiting job takes."""
    server.flush()
    link = RedisLink(server.url)
    with server.client() as client:
        short, long = (Bench(link, client, name, tenants) for name in (BACKGROUND, BATCH))
        await short.fill(SHORT)
        before = client.info("memory")["used_memory"]
        await long.fill(LONG)
        memory = (client.info("memory")["used_memory"] - before) / LONG
        for _ in range(ROUNDS):
            for bench in (short, long):
                await bench.round()
    await link.close()
    return short.cost(), long.cost(), memory


def table(tenants: int, short: Cost, long: Cost, memory: float) -> str:
    """One table; the last column is the promise."""
    rows = [
        f"| {call} | {short.server[call]:.0f} | {long.server[call]:.0f} | {long.server[call] / short.server[call]:.2f} "
        f"| {short.passed[call]:.0f} | {long.passed[call]:.0f} |"
        for call in CALLS
    ]
    whole = [sum(cost.passed.values()) for cost in (short, long)]
    rows.append(
        f"| all three | {short.server_us:.0f} | {long.server_us:.0f} | **{long.server_us / short.server_us:.2f}** "
        f"| {whole[0]:.0f} | {whole[1]:.0f} |"
    )
    head = f"{tenants:,} tenant{'s' * (tenants > 1)}, {memory:.0f} bytes a waiting job:\n"
    columns = f"| µs a job | server, {SHORT} | server, {LONG:,} | ratio | passed, {SHORT} | passed, {LONG:,} |"
    return "\n".join([head, columns, "|---|---|---|---|---|---|", *rows, ""])


async def rates(server: ValkeyServer) -> str:
    """Jobs per second of one process that keeps several calls on their way."""
    server.flush()
    link = RedisLink(server.url)
    with server.client() as client:
        bench = Bench(link, client, BACKGROUND, 100)
        jobs = CYCLES * SIDE_BY_SIDE // 2

        async def publish() -> None:
            for _ in range(jobs // SIDE_BY_SIDE):
                await bench.publish()

        async def work() -> None:
            while entry := await bench.queue.take("c"):
                await bench.queue.settle(entry, Done())

        published, worked = [jobs / await _side_by_side(each) for each in (publish, work)]
    await link.close()
    return (
        f"One process, {SIDE_BY_SIDE} calls at a time, {jobs:,} jobs of 100 tenants: {published:,.0f} published a second, "
        f"then {worked:,.0f} taken and settled a second."
    )


async def _side_by_side(run: Callable[[], Awaitable[None]]) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(run() for _ in range(SIDE_BY_SIDE)))
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
