"""What keeping turns costs at many streams at once: stateless turns, stored ones, and stored ones without their journal.

    python -m tests.benchmarks.bench_journal [--model DIR] [--engine real] [--streams 64] [--tokens 128] [--rounds 5]

All ways take turns in one run, in one process, with a Valkey server on a unix socket. A round of one way is ``streams``
turns at once, each of ``tokens`` ids. The engine is either a real one in a thread of this process, or the scripted
backend, which costs next to nothing, so that the share of the rest is as large as it can be. Told are tokens a second,
and the computing time of a token: of this process with its engine, and of the server. The ways take turns in both orders
(whichever comes last finds the engine's cache fullest), and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from cluster.replica.config import ReplicaConfig
from cluster.replica.engine import build_engine
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.base import Backend
from services.backend.local import LocalBackend
from services.backend.scripted import ScriptedBackend
from services.conversations import ids
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Note, Reply, Verdict
from services.queue.due import RedisDueIndex
from services.turns.events import TurnEvent, TurnStarted
from services.turns.service import TurnService
from services.turns.settings import ServedModel, TurnSettings
from tests.benchmarks.bench_engine_process import cpu_s
from tests.support.turn_kit import TurnKit, user
from tests.support.turns import a_begin, a_note
from tests.support.valkey import ValkeyServer, running_valkey

DEMO = Path(__file__).parents[2] / "cluster" / "demo" / "checkpoint"
CONTEXT = 2048
FLUSHES = 200
NOTES_PER_S = 1 / TurnSettings().journal.flush_s  # of a stream
UNKEPT = "stored, without their journal"
COLUMNS = ("engine", "turns", "tokens/s", "of stored without a journal", "µs a token here", "µs in the server")
QUESTION = "Tell me about the river, the harbour and the bread. "

Turn = AsyncIterator[TurnStarted | TurnEvent]


class WithoutJournal:
    """A store that writes no notes, and lets every turn's owner go on all the same."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        return [Reply(Verdict.OK, value=note.start + len(note.ids)) for note in notes]


@dataclass(frozen=True)
class Reading:
    """One round of one way: tokens a second, and microseconds of computing time per token here and in the server."""

    rate: float
    here_us: float
    server_us: float


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--engine", choices=("scripted", "real"), nargs="+", default=["scripted", "real"])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


async def main(options: argparse.Namespace) -> None:
    """Measure and print Markdown."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(options.model)
    scripted = ScriptedBackend(tokenizer.encode_text("\n" + QUESTION * options.tokens)[: options.tokens + 1])
    with running_valkey() as server:
        await tell_note(server, options.streams)
    print(f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")  # noqa: T201 - the result
    with running_valkey() as server:
        if "scripted" in options.engine:
            await measure("scripted", scripted, tokenizer, server, options)
        if "real" in options.engine:
            async with real(options.model) as backend:
                await measure("real", backend, tokenizer, server, options)


async def tell_note(server: ValkeyServer, streams: int) -> None:
    """What one note costs, in flushes of ``streams`` with eight new ids each, as the journal sends them."""
    store = RedisConversationStore(server.url)
    turns = [ids.new_response(ids.new_conversation()) for _ in range(streams)]
    for turn in turns:
        await store.begin(a_begin(turn, new_line=True))
    new = list(range(60_000, 60_008))
    await store.note([a_note(turn, 0, new) for turn in turns])
    here, there = time.process_time(), cpu_s(server.pid)
    for flush in range(1, FLUSHES):
        await store.note([a_note(turn, 8 * flush, new) for turn in turns])
    notes = (FLUSHES - 1) * streams
    here_us = (time.process_time() - here) / notes * 1e6
    server_us = (cpu_s(server.pid) - there) / notes * 1e6
    await store.close()
    share = (here_us + server_us) * streams * NOTES_PER_S / 1e6
    print(f"A note costs {here_us:.1f} µs here and {server_us:.1f} in the server,")  # noqa: T201 - the result
    print(f"so the journals of {streams} streams cost {share:.1%} of one core.")  # noqa: T201


@asynccontextmanager
async def real(model: Path) -> AsyncIterator[LocalBackend]:
    """The model's engine, in a thread."""
    backend = LocalBackend(build_engine(ReplicaConfig(str(model), "cpu", "float32", 1, None, engine_process=False)))
    await backend.start()
    yield backend
    await backend.stop()


async def measure(
    name: str, backend: Backend, tokenizer: ChatGLM3Tokenizer, server: ValkeyServer, options: argparse.Namespace
) -> None:
    """All ways on one backend, one round each before those that count."""
    link = RedisLink(server.url)
    store = RedisConversationStore(link)
    model = ServedModel(name="bench", context_length=CONTEXT, fingerprint="fp")
    seams: dict[str, Any] = {"store": store, "due": RedisDueIndex(link), "settings": TurnSettings(), "model": model}
    kit = TurnKit(tokenizer, backend, **seams)  # type: ignore[arg-type] # any backend
    kept, unkept = kit.service, kit.another(store=WithoutJournal(store))
    asked: dict[str, Any] = {"max_tokens": options.tokens, "ignore_eos": True, "temperature": 0.0}

    def stored(service: TurnService) -> Callable[[int], Turn]:
        return lambda i: service.respond(kit.stored_turn(user(f"{i} {QUESTION}"), **asked))

    ways: dict[str, Callable[[int], Turn]] = {
        "stateless": lambda i: kept.chat(kit.chat_turn(user(f"{i} {QUESTION}"), **asked)),
        UNKEPT: stored(unkept),
        "stored": stored(kept),
    }
    readings: dict[str, list[Reading]] = {way: [] for way in ways}
    for service in (kept, unkept):
        await service.start()
    for round_ in range(options.rounds + 1):
        for way in sorted(ways, reverse=round_ % 2 == 1):  # none always comes first
            reading = await read(ways[way], server, options)
            readings[way] += [reading] if round_ else []
    for service in (kept, unkept):
        await service.stop()
    await link.close()
    tell(name, readings)


async def read(turn: Callable[[int], Turn], server: ValkeyServer, options: argparse.Namespace) -> Reading:
    """One round."""
    pid = server.pid
    begin, here, there = time.perf_counter(), time.process_time(), cpu_s(pid)
    await asyncio.gather(*[drain(turn(i)) for i in range(options.streams)])
    tokens = options.streams * options.tokens
    taken = time.perf_counter() - begin
    return Reading(tokens / taken, (time.process_time() - here) / tokens * 1e6, (cpu_s(pid) - there) / tokens * 1e6)


async def drain(turn: Turn) -> None:
    """Read a turn to its end."""
    async for _ in turn:
        pass


def tell(name: str, readings: dict[str, list[Reading]]) -> None:
    """One line for each way."""
    for way, taken in readings.items():
        rate = statistics.median(reading.rate for reading in taken)
        here = statistics.median(reading.here_us for reading in taken)
        server = statistics.mean(reading.server_us for reading in taken)  # the kernel counts in hundredths of a second
        shares = [one.rate / other.rate for one, other in zip(taken, readings[UNKEPT], strict=True)]
        share = "" if way == "stateless" else f"{statistics.median(shares):.2f}"
        print(f"| {name} | {way} | {rate:,.0f} | {share} | {here:.1f} | {server:.1f} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(main(parse()))
