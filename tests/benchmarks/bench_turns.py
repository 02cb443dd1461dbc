"""What one token costs on its way through services/turns, in microseconds.

Run: ``python -m tests.benchmarks.bench_turns``. Tokens come from the scripted backend, records go to memory, so what is
measured is this package: the attempts, the projection, the owner and its outbox. The backend's own share is measured
alone and shown beside it. Told is computing time, medians of runs that take turns, so that neither other programs nor a
slow moment of the machine change the picture.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.turns.events import TurnEvent, TurnStarted
from services.turns.projection import Projection
from services.turns.settings import ServedModel, TurnSettings
from tests.support.turn_kit import TINY, TurnKit

TOKENS = 6000
ROUNDS = 7
SENTENCE = " Hello there, how are you? 你好"
Run = Callable[[], Awaitable[None]]


async def main() -> None:
    """Print one line per way, with one and with eight ids a frame."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(TINY)
    ids = tokenizer.encode_text("\n" + SENTENCE * TOKENS)[:TOKENS]
    for frame in (1, 8):
        await measure(tokenizer, ids, frame)


async def measure(tokenizer: ChatGLM3Tokenizer, ids: list[int], frame: int) -> None:
    """All ways at one frame size."""
    backend = ScriptedBackend(ids, frame=frame)
    model = ServedModel(name="bench", context_length=2 * TOKENS, fingerprint="fp")
    kit = TurnKit(tokenizer, backend, settings=TurnSettings(), model=model)
    await kit.service.start()
    stop = ("<never>", "\nUser:")
    runs: dict[str, Run] = {
        "projection alone": lambda: _projected(tokenizer, ids, ()),
        "projection, two stop strings": lambda: _projected(tokenizer, ids, stop),
        "backend alone": lambda: _read_all(backend.stream(backend.requests[0])),
        "chat": lambda: _read_all(kit.service.chat(kit.chat_turn())),
        "chat, two stop strings": lambda: _read_all(kit.service.chat(kit.chat_turn(stop=stop))),
        "respond": lambda: _read_all(kit.service.respond(kit.stored_turn())),
    }
    await runs["chat"]()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            taken[name].append(await _timed(run))
    await kit.service.stop()
    for name, times in taken.items():
        print(f"{frame} ids a frame, {name:30} {statistics.median(times) / TOKENS * 1e6:6.2f} µs a token")  # noqa: T201 - the result


async def _timed(run: Run) -> float:
    start = time.process_time()
    await run()
    return time.process_time() - start


async def _projected(tokenizer: ChatGLM3Tokenizer, ids: list[int], stop: tuple[str, ...]) -> None:
    projection = Projection(tokenizer, stop)
    for token_id in ids:
        projection.push((token_id,))


async def _read_all(events: AsyncIterator[TurnStarted | TurnEvent | object]) -> None:
    async for _ in events:
        pass


if __name__ == "__main__":
    asyncio.run(main())
