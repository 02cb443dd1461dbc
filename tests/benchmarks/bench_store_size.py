"""What many conversations cost in one server: bytes each, by kind of key, and the time to load one or to page through.

Run: ``python -m tests.benchmarks.bench_store_size --written 5000 --copies 19``. That writes 5,000 conversations of 20
turns through the store, has the server copy each of them 19 times, key by key, under roots of their own, and so holds
100,000. The bytes of those written and of all are printed apart: they should agree.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from redis.asyncio import Redis

from cluster.protocol import Hint, SamplingParams
from services.conversations import codec, ids
from services.conversations.keys import MAIN_LINE, Keys
from services.conversations.records import Item, TurnRequest, TurnState
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.scripts import Script
from services.conversations.store import Begin, Commit, Note
from tests.support.valkey import VALKEY, running_valkey

TENANT: Final = "acme"
AT_ONCE: Final = 64  # conversations written side by side
READS: Final = 2000
PAGE: Final = 20
LETTERS: Final = "一二三四五六七八九十天地人和水火山石田土日月星雨"

COPY: Final = Script("""
-- Copy a root under other names, times to live included.
-- KEYS none (a benchmark on one server); ARGV 1 root's prefix, 2 its length in the names, then new prefixes, then names
local copies = tonumber(ARGV[2])
for i = 3 + copies, #ARGV do
  for c = 3, 2 + copies do redis.call('COPY', ARGV[1] .. ARGV[i], ARGV[c] .. ARGV[i]) end
end
""")


async def main() -> None:
    """Write, copy, weigh and read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--written", type=int, default=5000, help="conversations that the store writes")
    parser.add_argument("--copies", type=int, default=0, help="copies of each that the server makes")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")
    parser.add_argument("--binary", default=VALKEY, help="the server; by default the Valkey that is installed here")
    args = parser.parse_args()
    with running_valkey(binary=args.binary) as server:
        link = RedisLink(server.url)
        store = RedisConversationStore(link)
        empty = await link.call(_used_bytes)
        roots = await _write(store, args.written, args.turns, args.tokens)
        written = await link.call(_used_bytes)
        _say("written by the store", f"{(written - empty) / len(roots):,.0f} bytes a conversation")
        roots += await _copy(link, roots, args.copies)
        held = await link.call(_used_bytes)
        _say(f"{len(roots):,} held", f"{(held - empty) / len(roots):,.0f} bytes a conversation")
        await _weigh(link, roots[0])
        await _read(store, roots)
        await link.close()


async def _write(store: RedisConversationStore, count: int, turns: int, tokens: int) -> list[str]:
    names: list[str] = []
    start = time.perf_counter()

    async def work() -> None:
        while len(names) < count:
            made = await store.create(TENANT, metadata={"topic": "天气"})
            names.append(made.id)
            for version in range(turns):
                await _turn(store, made.id, version, tokens)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    _say("writing", f"{(time.perf_counter() - start) / (len(names) * turns) * 1e6:,.0f} µs a turn")
    return names


async def _turn(store: RedisConversationStore, conversation: str, version: int, tokens: int) -> None:
    turn, owner = ids.new_response(conversation), secrets.token_hex(16)
    question = Item(id=ids.new_item(conversation), role="user", text=_text(40), turn=turn, created_at=int(time.time()))
    spoken = [random.randrange(3, 64_000) for _ in range(tokens)]
    answer = Item(
        id=ids.new_item(conversation),
        role="assistant",
        text=_text(3 * tokens // 2),
        ids=spoken,
        turn=turn,
        created_at=int(time.time()),
    )
    sampling = codec.encode(SamplingParams(max_new_tokens=512, seed=secrets.randbits(63)))
    request = TurnRequest(
        request_id=f"req_{secrets.token_hex(16)}",
        input=[question],
        instructions=None,
        sampling=sampling,
        stop=[],
        prompt_digest=secrets.token_hex(16),
        prompt_tokens=1000,
        model="chatglm3-6b",
        fingerprint=secrets.token_hex(16),
    )
    await store.begin(Begin(TENANT, turn, conversation, owner, version, 15.0, 600.0, request))
    await store.note([Note(TENANT, turn, owner, 0, spoken, 15.0)])
    await store.commit(
        Commit(
            TENANT,
            turn,
            conversation,
            owner,
            TurnState.COMPLETED,
            version,
            [question, answer],
            spoken,
            "stop",
            {"prompt_tokens": 1000, "output_tokens": tokens},
            Hint(rank=1, incarnation="chatglm-replica#abcdef12", tokens=1100),
        )
    )


async def _copy(link: RedisLink, names: list[str], copies: int) -> list[str]:
    made: list[str] = []
    for name in names if copies else []:
        prefix, suffixes = await link.call(lambda redis, name=name: _keys_of(redis, name))
        fresh = [ids.new_conversation() for _ in range(copies)]
        args = [prefix, copies, *(_prefix(one) for one in fresh), *suffixes]
        await link.call(lambda redis, args=args: COPY.run(redis, [], args))
        made += fresh
    return made


async def _weigh(link: RedisLink, conversation: str) -> None:
    """What one conversation's keys take, by the server's own estimate."""
    prefix, suffixes = await link.call(lambda redis: _keys_of(redis, conversation))
    kinds: dict[str, list[int]] = {}
    for suffix in suffixes:
        weight: Any = await link.call(lambda redis, key=prefix + suffix: redis.memory_usage(key, samples=0))
        kinds.setdefault(suffix.partition(":")[0], []).append(weight)
    for kind, weights in kinds.items():
        _say(kind, f"{len(weights)} keys, {sum(weights):,} bytes, {statistics.mean(weights):,.0f} each")


async def _read(store: RedisConversationStore, names: list[str]) -> None:
    async def load(name: str) -> None:
        await store.load(TENANT, name)

    async def page(name: str) -> None:
        await store.items(TENANT, name, after=None, limit=PAGE, descending=True)

    async def record(name: str) -> None:
        await store.turn(TENANT, turns[name])

    some = random.choices(names, k=READS)
    turns = {name: (await store.load(TENANT, name)).items[-1].turn for name in some[:100]}
    await _timed("load of a conversation", load, some)
    await _timed(f"page of {PAGE} items", page, some)
    await _timed("turn record", record, list(turns))


async def _timed(what: str, call: Callable[[str], Awaitable[None]], names: list[str]) -> None:
    taken: list[float] = []
    for name in names:
        start = time.perf_counter()
        await call(name)
        taken.append((time.perf_counter() - start) * 1e3)
    cuts = statistics.quantiles(taken, n=100)
    _say(what, f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms")


async def _keys_of(redis: Redis, conversation: str) -> tuple[str, list[str]]:
    keys, prefix = Keys.of_conversation(TENANT, conversation), _prefix(conversation)
    members: Any = await redis.smembers(keys.index)
    names = [keys.line(), keys.items(), keys.item, keys.index]
    names += [keys.turn(member.decode().removeprefix("turn:")) for member in members if member.startswith(b"turn:")]
    return prefix, [name.removeprefix(prefix) for name in names]


def _prefix(conversation: str) -> str:
    return Keys.of_conversation(TENANT, conversation).line(MAIN_LINE).removesuffix(f"line:{MAIN_LINE}")


async def _used_bytes(redis: Redis) -> int:
    memory: Any = await redis.info("memory")
    return int(memory["used_memory"])


def _text(letters: int) -> str:
    return "".join(random.choices(LETTERS, k=letters))


def _say(what: str, value: str) -> None:
    print(f"{what:28} {value}")  # noqa: T201 - the result


if __name__ == "__main__":
    asyncio.run(main())
