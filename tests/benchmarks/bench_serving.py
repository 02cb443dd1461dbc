"""Interleaved load on OpenAI-compatible servers: tokens per second and time to first token, as ratios of one run.

Every round loads each server in turn at each concurrency, so that a busy moment of the machine hits all alike; the
table shows medians over the rounds. Conversations are stateless and of several turns: each turn sends the whole history
and streams an answer of fixed length.

    python tests/benchmarks/bench_serving.py --model chatglm3 --rounds 5 \
        --server ours=http://127.0.0.1:8000,sk-… --server peer=http://127.0.0.1:9000,none
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

WORDS = [
    "boats",
    "carry",
    "copper",
    "and",
    "bread",
    "along",
    "a",
    "quiet",
    "river",
    "while",
    "students",
    "draw",
    "maps",
    "of",
    "distant",
    "harbours",
    "and",
    "engineers",
    "listen",
    "to",
    "the",
    "weather",
    "for",
    "music",
    "about",
    "stone",
    "light",
    "pressure",
    "and",
    "trade",
]
SETTLE_S = 1.0  # threads of the server before may still spin


@dataclass(frozen=True)
class Server:
    """A server under load."""

    name: str
    url: str
    key: str


@dataclass
class Load:
    """What one run of load brought: completion tokens, seconds, and per-turn times to the first delta."""

    tokens: int = 0
    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)
    last_turn_first_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Output tokens per second of the whole run."""
        return self.tokens / self.seconds


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, help="name=URL,KEY; may be repeated")
    parser.add_argument("--model", default="chatglm3")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--conversations-per-stream", type=int, default=1)
    parser.add_argument("--user-words", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=64)
    return parser.parse_args()


async def lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Lines of an event stream; httpx's own reader also splits at line ends that only Unicode knows."""
    rest = b""
    async for data in response.aiter_bytes():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line


async def turn(client: httpx.AsyncClient, body: dict[str, Any], load: Load, *, is_last: bool) -> str:
    """One streamed answer; returns its text."""
    begin, first, parts = time.perf_counter(), 0.0, []
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            raise RuntimeError(f"{response.status_code}: {(await response.aread())[:300]!r}")
        async for line in lines(response):
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            load.tokens += (chunk.get("usage") or {}).get("completion_tokens", 0)
            for choice in chunk.get("choices", []):
                if text := choice["delta"].get("content"):
                    first = first or time.perf_counter()
                    parts.append(text)
    first_s = (first or time.perf_counter()) - begin
    load.first_s.append(first_s)
    if is_last:
        load.last_turn_first_s.append(first_s)
    return "".join(parts)


async def conversation(client: httpx.AsyncClient, options: argparse.Namespace, seed: str, load: Load) -> None:
    """Turns that each send the whole history."""
    rng = random.Random(seed)
    messages: list[dict[str, str]] = []
    for number in range(options.turns):
        messages.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=options.user_words))})
        body = {
            "model": options.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": options.max_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        text = await turn(client, body, load, is_last=number == options.turns - 1)
        messages.append({"role": "assistant", "content": text})


async def run(server: Server, options: argparse.Namespace, streams: int, seed: str) -> Load:
    """One run of load: ``streams`` clients side by side."""
    load = Load()
    headers = {"Authorization": f"Bearer {server.key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=900, limits=limits) as client:

        async def stream(number: int) -> None:
            for index in range(options.conversations_per_stream):
                await conversation(client, options, f"{seed}-{number}-{index}", load)

        begin = time.perf_counter()
        await asyncio.gather(*(stream(number) for number in range(streams)))
        load.seconds = time.perf_counter() - begin
    return load


async def measure(servers: list[Server], options: argparse.Namespace) -> dict[tuple[str, int], list[Load]]:
    """All rounds, after one unmeasured run per server."""
    loads: dict[tuple[str, int], list[Load]] = {}
    begun = time.time_ns()  # no prompt is ever asked twice, so that no server finds it cached
    for server in servers:
        await run(server, options, 1, f"{begun}-warm-up")
    for number in range(options.rounds):
        for streams in options.concurrency:
            for server in servers[:: 1 if number % 2 else -1]:  # nobody always comes right after the other
                await asyncio.sleep(SETTLE_S)
                load = await run(server, options, streams, f"{begun}-{number}-{streams}")
                loads.setdefault((server.name, streams), []).append(load)
                print(f"round {number + 1}: {server.name} × {streams}: {load.rate:.1f} tok/s", file=sys.stderr)  # noqa: T201
    return loads


def table(loads: dict[tuple[str, int], list[Load]], order: list[str]) -> str:
    """Markdown: medians over the rounds, and each server against the first one at the same concurrency."""
    first = min(loads, key=lambda key: order.index(key[0]))[0]
    rates = {key: statistics.median(load.rate for load in runs) for key, runs in loads.items()}
    rows = [
        "| server | streams | tok/s | first ÷ this | TTFT p50 ms | last turn's TTFT p50 ms |",
        "|---|---|---|---|---|---|",
    ]
    for (name, streams), runs in sorted(loads.items(), key=lambda item: (item[0][1], order.index(item[0][0]))):
        ttft = statistics.median(s for load in runs for s in load.first_s) * 1e3
        last = statistics.median(s for load in runs for s in load.last_turn_first_s) * 1e3
        ratio = rates[first, streams] / rates[name, streams]
        rows.append(f"| {name} | {streams} | {rates[name, streams]:.1f} | {ratio:.2f} | {ttft:.0f} | {last:.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    options = parse()
    servers = [Server(name, *address.split(",")) for name, address in (s.split("=", 1) for s in options.server)]
    print(table(asyncio.run(measure(servers, options)), [server.name for server in servers]))  # noqa: T201


if __name__ == "__main__":
    main()
