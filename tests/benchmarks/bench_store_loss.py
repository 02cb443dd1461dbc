"""What kill -9 of the store's server takes away, by how the server writes its log, and what a host's death would take.

Run: ``python -m tests.benchmarks.bench_store_loss``; results are in docs/benchmarks/store-loss.md.

Conversations take turns through the real store as fast as they can. At some moment the server is killed; a new one
reads what the files hold (TMPDIR says on which disk), and every write that had been acknowledged is looked for. A
process's death takes nothing that the kernel has. What a host's death takes is found on the same files:
``fsync_log.c``, preloaded into the server, notes how much of the log each fdatasync had brought to the disk; the log is
cut there, a third server reads it, and the acknowledged writes are looked for again. That believes the disk: one that
answers from a cache of its own loses more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import NotFoundError, StoreUnavailableError
from services.conversations import ids
from services.conversations.records import TurnState
from services.conversations.redis_store import RedisConversationStore
from tests.support.turns import TENANT, a_begin, a_commit, a_note, journal_of
from tests.support.valkey import VALKEY, ValkeyServer

NOTES = 8  # of a turn
IDS = 8  # of a note
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "no AOF": {"appendonly": "no"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "everysec, slow disk": {"appendonly": "yes", "appendfsync": "everysec"},
    "always": {"appendonly": "yes", "appendfsync": "always"},
}
SLOW_MS = 1500  # a disk that others keep busy
NO_REWRITE = {"auto-aof-rewrite-percentage": 0}  # one log from the beginning to the end
FSYNC_LOG = Path(__file__).with_name("fsync_log.c")


@dataclass
class Acknowledged:
    """Writes of one conversation that the store has answered, and when each was."""

    conversation: str = ""
    turns: list[tuple[str, list[str]]] = field(default_factory=list)  # with what was done to each, in order
    times: list[float] = field(default_factory=list)

    def took(self, write: str) -> None:
        """The last turn's next write was answered."""
        self.turns[-1][1].append(write)
        self.times.append(time.monotonic())


@dataclass
class Round:
    """What one killed server had acknowledged and what of it was gone."""

    writes: int
    per_s: float
    killed: int  # gone with the process
    died: int  # gone, had it been the host


async def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--conversations", type=int, default=32, help="that take turns at the same time")
    options = parser.parse_args()
    rounds: dict[str, list[Round]] = {name: [] for name in SETTINGS}
    for number in range(options.rounds):
        for name, setting in SETTINGS.items():
            seconds = options.seconds * (1 + number / options.rounds / 2)  # not always the same moment of a second
            slow_ms = SLOW_MS if "slow" in name else 0
            rounds[name].append(await measure(setting, seconds, options.conversations, slow_ms))
    base = statistics.median(one.per_s for one in rounds["no AOF"])
    for name, results in rounds.items():
        print(_line(name, results, base))  # noqa: T201 - the result


async def measure(setting: Mapping[str, str], seconds: float, conversations: int, slow_ms: int) -> Round:
    """One server: write, kill, start again, look; cut the log, start again, look."""
    with tempfile.TemporaryDirectory(prefix="vk") as name:
        folder = Path(name)
        server = ValkeyServer(folder, binary=_watched_server(folder, slow_ms), options={**setting, **NO_REWRITE})
        server.start()
        logs = [Acknowledged() for _ in range(conversations)]
        store = RedisConversationStore(server.url)
        tasks = [asyncio.create_task(_converse(store, log)) for log in logs]
        await asyncio.sleep(seconds)
        server.kill()
        on_disk = _on_disk(folder)
        await asyncio.gather(*tasks)
        await store.close()
        killed = await _lost(server, logs)
        _cut_log(folder, on_disk)
        died = await _lost(server, logs)
    times = sorted(moment for log in logs for moment in log.times)
    return Round(len(times), len(times) / (times[-1] - times[0]), killed, died)


def _watched_server(folder: Path, slow_ms: int) -> str:
    """A program that starts the server with ``fsync_log.c`` in it, which makes each fdatasync so much longer."""
    library, program = folder / "fsync_log.so", folder / "server"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, FSYNC_LOG, "-ldl"], check=True)
    environment = f"LD_PRELOAD={library} FSYNC_LOG={folder}/fsync.log FSYNC_SLOW_MS={slow_ms}"
    program.write_text(f'#!/bin/sh\nexec env {environment} {VALKEY} "$@"\n')
    program.chmod(0o700)
    return str(program)


def _on_disk(folder: Path) -> int:
    """Bytes of the log that were on the disk for certain; 0 without a log."""
    log = folder / "fsync.log"
    return int(log.read_text().splitlines()[-1]) if log.exists() else 0


def _cut_log(folder: Path, size: int) -> None:
    for log in folder.glob("appendonlydir/*.incr.aof"):
        os.truncate(log, size)


async def _converse(store: RedisConversationStore, log: Acknowledged) -> None:
    """Turn after turn until the server is gone. What was sent and not answered is nobody's loss."""
    try:
        log.conversation = (await store.create(TENANT, metadata={})).id
        version = 0
        while True:
            turn = ids.new_response(log.conversation)
            await store.begin(a_begin(turn, base_version=version))
            log.turns.append((turn, []))
            log.took("begin")
            for start in range(0, NOTES * IDS, IDS):
                await store.note([a_note(turn, start, list(range(start, start + IDS)))])
                log.took(f"note {start + IDS}")
            await store.commit(a_commit(turn, base_version=version))
            log.took("commit")
            version += 1
    except StoreUnavailableError:
        return


async def _lost(server: ValkeyServer, logs: Sequence[Acknowledged]) -> int:
    """How many acknowledged writes a server does not know that is started on what files there are."""
    server.start()
    store = RedisConversationStore(server.url)
    lost = sum([await _lost_of(store, log) for log in logs])
    await store.close()
    server.kill()
    return lost


async def _lost_of(store: RedisConversationStore, log: Acknowledged) -> int:
    try:
        line = await store.load(TENANT, log.conversation)
    except NotFoundError:
        return sum(len(writes) for _, writes in log.turns)
    kept = {item.id for item in line.items}
    return sum([await _lost_of_turn(store, turn, writes, kept) for turn, writes in log.turns])


async def _lost_of_turn(store: RedisConversationStore, turn: str, writes: list[str], kept: set[str]) -> int:
    try:
        record = await store.turn(TENANT, turn)
    except NotFoundError:
        return len(writes)
    is_whole = record.state is TurnState.COMPLETED and record.answer is not None and record.answer.id in kept
    noted = len(await journal_of(store, turn)) if not is_whole else NOTES * IDS
    return sum((write == "commit" and not is_whole) or _ids_of(write) > noted for write in writes)


def _ids_of(write: str) -> int:
    return int(write.removeprefix("note ")) if write.startswith("note") else 0


def _line(name: str, rounds: list[Round], base: float) -> str:
    per_s = statistics.median(one.per_s for one in rounds)
    died = [f"{one.died} ({one.died / one.per_s:.2f} s)" for one in rounds]
    return (
        f"{name:25} {per_s:5.0f} writes/s ({per_s / base:4.2f}); gone with the process: {sum(r.killed for r in rounds)} "
        f"of {sum(r.writes for r in rounds)}; with the host: {', '.join(died)}"
    )


if __name__ == "__main__":
    asyncio.run(main())
