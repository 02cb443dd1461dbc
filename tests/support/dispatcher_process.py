"""A dispatcher in a process of its own, over the scripted backend and a real server: to be killed, and to be measured.

Run: ``python -m tests.support.dispatcher_process URL NAME [--words N] [--pause S] [--lease S] [--slots N]``. It works
until it is ended; SIGTERM ends it in order.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from cluster.protocol import Event, GenerateRequest, Tokens
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import ScriptedBackend
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.settings import DispatcherSettings
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.turns.parts import TurnParts
from services.turns.service import TurnService
from services.turns.settings import JournalSettings, TurnSettings
from tests.support.dispatch_kit import drawn_answer
from tests.support.turn_kit import MODEL, TINY

_READY = "ready"


@dataclass
class PacedBackend(ScriptedBackend):
    """The scripted backend, with a pause before each frame. It keeps no list of what it was asked."""

    pause_s: float = 0.0

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """See ``ScriptedBackend``."""
        async for event in super().stream(request):
            if isinstance(event, Tokens) and self.pause_s:
                await asyncio.sleep(self.pause_s)
            yield event
        self.requests.clear()


def parts_over(link: RedisLink, *, words: int, pause_s: float = 0.0, lease_s: float = 15.0) -> TurnParts:
    """What turns need, on a real server; answers are ``words`` drawn words, one frame of eight ids after the other."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(TINY)
    journal = JournalSettings(lease_s=lease_s, margin_s=lease_s / 5, renew_s=min(lease_s / 5, 2.0))
    return TurnParts(
        backend=PacedBackend(drawn_answer(tokenizer, words=words), frame=8, pause_s=pause_s),
        store=RedisConversationStore(link),
        index=MemoryIdIndex(),
        due=RedisDueIndex(link),
        queue=RedisQueue(link, BACKGROUND, max_queued=10**6),
        tokenizer=tokenizer,
        model=MODEL,
        settings=TurnSettings(journal=journal),
    )


async def work(options: argparse.Namespace) -> None:
    """Dispatch until SIGTERM."""
    link = RedisLink(options.url)
    parts = parts_over(link, words=options.words, pause_s=options.pause, lease_s=options.lease)
    turns = TurnService(parts)
    settings = DispatcherSettings(slots=options.slots, idle_s=2 * options.lease, extend_s=options.lease / 2)
    queue = RedisQueue(link, BACKGROUND)
    dispatcher = Dispatcher(turns, parts.store, queue, parts.due, name=options.name, settings=settings)
    is_over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
    await turns.start()
    await dispatcher.start()
    sys.stdout.write(f"{_READY}\n")
    sys.stdout.flush()
    await is_over.wait()
    await dispatcher.stop()
    await turns.stop()
    await link.close()


@contextmanager
def running_dispatcher(url: str, name: str, **options: float) -> Iterator[subprocess.Popen[bytes]]:
    """One at work; killed at the end, if it still runs."""
    arguments = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "tests.support.dispatcher_process", url, name, *arguments]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    try:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == _READY
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def main() -> None:
    """Read the command line, and work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--lease", type=float, default=15.0)
    parser.add_argument("--slots", type=int, default=64)
    # Not to stdout: nobody reads it behind the first line, and a full pipe would stop the process.
    logs = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING), logger_factory=logs)
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
