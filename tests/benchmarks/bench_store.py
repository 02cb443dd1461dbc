"""What the store's scripts cost, in microseconds and in PINGs: sent one by one, and pipelined by 64.

Run: ``python -m tests.benchmarks.bench_store [--binary /usr/bin/redis-server]``. One client and one server on a unix socket. The
server's own share comes from its command statistics. Medians of rounds that take turns, so that a slow moment of the
machine falls on all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from services.conversations import ids, redis_args
from services.conversations.keys import Keys
from services.conversations.records import Item
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.scripts import Call, Script, lines, run_many, turns, visits
from services.conversations.store import Tail
from tests.support.turns import TENANT, a_begin, a_commit, a_note
from tests.support.valkey import VALKEY, running_valkey

WIDTH = 64
ROUNDS = 15
PAST = 40  # items of a conversation
TTL_S = 86_400
Plan = dict[str, tuple[Script, list[Call]]]


async def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default=VALKEY, help="the server; by default the Valkey that is installed here")
    binary = parser.parse_args().binary
    with running_valkey(binary=binary) as server:
        link = RedisLink(server.url)
        taken: dict[str, list[tuple[float, float, float]]] = {}
        await _round(link, {})  # teaches the server its scripts
        for _ in range(ROUNDS):
            await _round(link, taken)
        await link.close()
    alone, piped, _ = _medians(taken["ping"])
    for name, rows in taken.items():
        one, many, own = _medians(rows)
        print(  # noqa: T201 - the result
            f"| {name} | {one:.0f} | {one / alone:.1f} | {many:.0f} | {many / piped:.1f} | {own:.1f} |"
        )


async def _round(link: RedisLink, taken: dict[str, list[tuple[float, float, float]]]) -> None:
    store = RedisConversationStore(link)
    past = [Item(id="", role="user", text="问" * 100) for _ in range(PAST)]
    piped = _plan([await _a_turn(store, past) for _ in range(WIDTH)])
    alone = _plan([await _a_turn(store, past) for _ in range(WIDTH)])

    async def ping_alone(redis: Redis) -> None:
        for _ in range(WIDTH):
            await redis.ping()

    taken.setdefault("ping", []).append((await _timed(link, ping_alone), await _timed(link, _ping_piped), 0.0))
    for name, (script, calls) in piped.items():

        async def one_by_one(redis: Redis, script: Script = script, calls: list[Call] = alone[name][1]) -> None:
            for names, args in calls:
                await script.run(redis, names, args)

        async def at_once(redis: Redis, script: Script = script, calls: list[Call] = calls) -> None:
            await run_many(redis, script, calls)

        await link.call(lambda redis: redis.config_resetstat())
        rows = await _timed(link, one_by_one), await _timed(link, at_once)
        statistic: Any = await link.call(lambda redis: redis.info("commandstats"))
        taken.setdefault(name, []).append((*rows, statistic["cmdstat_evalsha"]["usec_per_call"]))


async def _a_turn(store: RedisConversationStore, past: list[Item]) -> str:
    return ids.new_response((await store.create(TENANT, metadata={}, items=past)).id)


def _plan(names: list[str]) -> Plan:
    """One turn's calls in their order, for each of these turns."""
    spoken = list(range(20))
    return {
        "load": (lines.LOAD, [_load(name) for name in names]),
        "begin": (turns.BEGIN, [redis_args.begin_call(a_begin(name), "", history_ttl_s=TTL_S) for name in names]),
        "note of 20 ids": (turns.NOTE, [redis_args.note_call(a_note(name, 0, spoken)) for name in names]),
        "note of none": (turns.NOTE, [redis_args.note_call(a_note(name, 20, [])) for name in names]),
        "tail of 20 ids": (visits.TAIL, [redis_args.tail_call(Tail(TENANT, name, 0, 5.0)) for name in names]),
        "commit": (
            turns.COMMIT,
            [redis_args.commit_call(a_commit(name), history_ttl_s=TTL_S) for name in names],
        ),
    }


def _load(turn: str) -> Call:
    """A whole line: none of its items is left out."""
    keys, _ = Keys.of_turn(TENANT, turn)
    return [keys.line(), keys.items(), keys.item], [0, 0, ""]


async def _ping_piped(redis: Redis) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for _ in range(WIDTH):
            pipe.ping()
        await pipe.execute()


async def _timed(link: RedisLink, operation: Callable[[Redis], Awaitable[None]]) -> float:
    """µs per call of ``WIDTH`` calls."""
    start = time.perf_counter()
    await link.call(operation)
    return (time.perf_counter() - start) / WIDTH * 1e6


def _medians(rows: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    one, many, own = (statistics.median(column) for column in zip(*rows, strict=True))
    return one, many, own


if __name__ == "__main__":
    asyncio.run(main())
