"""Interleaved load on OpenAI-compatible servers: throughput, latency and memory, as ratios of one run.

Every round loads each server in turn at each concurrency, so that a busy moment of the machine hits all alike; the
table shows medians over the rounds. Conversations are stateless and of several turns: each turn sends the whole history
and streams an answer of fixed length. With a process id, the memory of the server is told: the proportional set size of
that process and all its descendants. From it ``--kv-pool-gib``, the size of every server's KV pool, is taken: servers
touch their pools at different times, and how much of one is resident cannot be seen from outside, so choose a pool that
the load fills, or one that is small beside the rest. With a checkpoint, the share of the memory's bandwidth that one
stream draws. ``--json`` keeps what was measured, for ``plot_serving``.

    python tests/benchmarks/bench_serving.py --model chatglm3 --rounds 5 --checkpoint DIR --json FILE \
        --server ours=http://127.0.0.1:8000,sk-…,PID --server peer=http://127.0.0.1:9000,none,PID
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from safetensors import safe_open

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
    """A server under load. ``pid`` is its first process, if its memory is to be told."""

    name: str
    url: str
    key: str
    pid: int | None = None

    @classmethod
    def parse(cls, text: str) -> Server:
        """From ``name=URL,KEY[,PID]``."""
        name, address = text.split("=", 1)
        url, key, *pid = address.split(",")
        return cls(name, url, key, *map(int, pid))

    def memory(self) -> int:
        """Proportional set size in bytes of its processes."""
        assert self.pid is not None
        root = psutil.Process(self.pid)
        return sum(process.memory_full_info().pss for process in (root, *root.children(recursive=True)))


@dataclass
class Load:
    """What one run of load brought: tokens, seconds, times to the first delta, and gaps between deltas."""

    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)
    last_turn_first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Output tokens per second of the whole run."""
        return self.tokens / self.seconds


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, help="name=URL,KEY[,PID]; may be repeated")
    parser.add_argument("--checkpoint", type=Path, help="what they serve, to tell the share of the bandwidth")
    parser.add_argument("--json", type=Path, help="append every run of load to this file, one line each")
    parser.add_argument("--kv-pool-gib", type=float, default=0.0, help="every server's KV pool, taken from its memory")
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
    begin, times, parts = time.perf_counter(), [], []
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            raise RuntimeError(f"{response.status_code}: {(await response.aread())[:300]!r}")
        async for line in lines(response):
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            count(chunk.get("usage") or {}, load)
            for choice in chunk.get("choices", []):
                if text := choice["delta"].get("content"):
                    times.append(time.perf_counter())
                    parts.append(text)
    load.gaps_s += [after - before for before, after in itertools.pairwise(times)]
    first_s = (times or [time.perf_counter()])[0] - begin
    load.first_s.append(first_s)
    if is_last:
        load.last_turn_first_s.append(first_s)
    return "".join(parts)


def count(usage: dict[str, Any], load: Load) -> None:
    """Take the usage of a turn, if a chunk has it."""
    load.tokens += usage.get("completion_tokens", 0)
    load.prompt_tokens += usage.get("prompt_tokens", 0)
    load.cached_tokens += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


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
                if options.json:
                    append(options.json, name_of(options), server.name, streams, load)
                print(f"round {number + 1}: {server.name} × {streams}: {load.rate:.1f} tok/s", file=sys.stderr)  # noqa: T201
    return loads


def name_of(options: argparse.Namespace) -> str:
    """What tells runs on one checkpoint from those on another."""
    return (options.checkpoint or Path(options.model)).name


def append(file: Path, checkpoint: str, server: str, streams: int, load: Load) -> None:
    """Add one run to a file of JSON lines."""
    with file.open("a") as lines:
        lines.write(json.dumps({"checkpoint": checkpoint, "server": server, "streams": streams, **asdict(load)}) + "\n")


def read(files: Iterable[Path]) -> dict[str, dict[tuple[str, int], list[Load]]]:
    """What ``append`` wrote: by checkpoint, then by server and streams."""
    found: dict[str, dict[tuple[str, int], list[Load]]] = {}
    for line in itertools.chain.from_iterable(file.read_text().splitlines() for file in files):
        record = json.loads(line)
        checkpoint, *key = (record.pop(name) for name in ("checkpoint", "server", "streams"))
        found.setdefault(checkpoint, {}).setdefault(tuple(key), []).append(Load(**record))
    return found


COLUMNS: dict[str, Callable[[list[Load]], float]] = {  # what a row tells, and of which runs
    "tok/s": lambda runs: statistics.median(load.rate for load in runs),
    "TTFT p50 ms": lambda runs: 1e3 * statistics.median(s for load in runs for s in load.first_s),
    "last turn's TTFT p50 ms": lambda runs: 1e3 * statistics.median(s for load in runs for s in load.last_turn_first_s),
    "gap p50 ms": lambda runs: 1e3 * statistics.median(s for load in runs for s in load.gaps_s),
    "gap p99 ms": lambda runs: 1e3 * statistics.median(percentile(load.gaps_s, 0.99) for load in runs),
    "cached": lambda runs: sum(load.cached_tokens for load in runs) / sum(load.prompt_tokens for load in runs),
}


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def table(loads: dict[tuple[str, int], list[Load]], order: list[str]) -> str:
    """Markdown: medians over the rounds, and behind each the first server's over it at the same concurrency."""
    figures = {key: {name: of(runs) for name, of in COLUMNS.items()} for key, runs in loads.items()}
    rows = ["| server | streams | " + " | ".join(COLUMNS) + " |", "|---" * (2 + len(COLUMNS)) + "|"]
    for name, streams in sorted(loads, key=lambda key: (key[1], order.index(key[0]))):
        mine, first = figures[name, streams], figures[order[0], streams]
        cells = [f"{mine[column]:.4g}" + ratio(first[column], mine[column]) for column in COLUMNS]
        rows.append(f"| {name} | {streams} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def ratio(first: float, this: float) -> str:
    """The first server's figure over this one's, in brackets."""
    return f" ({first / this:.2f})" if this else ""


def bandwidth() -> float:
    """Bytes per second that all cores together read from memory, measured now."""
    data = torch.ones(2**28)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - begin)
    return data.nbytes / min(seconds)


def bytes_per_token(checkpoint: Path) -> int:
    """Bytes of weights that a step of one row reads: all but the embedding's other rows."""
    total = 0
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            total += sum(tensors.get_tensor(name).nbytes for name in tensors.keys() if "word_embeddings" not in name)  # noqa: SIM118 - it is no dict
    return total


def bounds(loads: dict[tuple[str, int], list[Load]], checkpoint: Path) -> str:
    """How much of the memory's bandwidth each server's single stream draws."""
    read, speed = bytes_per_token(checkpoint), bandwidth()
    lines = [
        f"Memory reads {speed / 1e9:.1f} GB/s here; a token reads {read / 1e6:.0f} MB: {speed / read:.0f} tok/s at most."
    ]
    for (name, streams), runs in loads.items():
        if streams == 1:
            lines.append(f"{name}: {COLUMNS['tok/s'](runs) * read / speed:.2f} of that with one stream.")
    return "\n".join(lines)


def memories(servers: list[Server], pool: int) -> Iterator[str]:
    """Each server's memory less its KV pool of ``pool`` bytes, and the first one's over it."""
    left = {server.name: server.memory() - pool for server in servers}
    for name, size in left.items():
        yield (
            f"{name}: {size / 2**20:.0f} MiB{ratio(next(iter(left.values())), size)}: proportional set size of "
            f"{(size + pool) / 2**20:.0f} less a KV pool of {pool / 2**20:.0f} that is taken to be resident as a whole"
        )


def main() -> None:
    """Measure and print."""
    options = parse()
    servers = [Server.parse(text) for text in options.server]
    loads = asyncio.run(measure(servers, options))
    print(table(loads, [server.name for server in servers]))  # noqa: T201
    for line in memories([server for server in servers if server.pid is not None], int(options.kv_pool_gib * 2**30)):
        print(line)  # noqa: T201
    if options.checkpoint:
        print(bounds(loads, options.checkpoint))  # noqa: T201


if __name__ == "__main__":
    main()
