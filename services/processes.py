"""The processes of one cluster, found by the mark that each of them carries in its environment.

Parents and process groups do not tell: Ray's workers, HAProxy and Valkey outlive whoever started them. The mark is read
from what the kernel keeps of the environment a program was *started* with, so a process cannot mark itself, only those
that it starts.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cluster.errors import ConfigurationError

MARK = "CHATGLM_CLUSTER_ID"
GRACE_S = 10.0
KILL_S = 20.0
POLL_S = 0.05


class Process(NamedTuple):
    """A process that is not taken for a later one with the same number."""

    pid: int
    started: int
    """Clock ticks between the machine's start and its own."""


def identify(pid: int) -> Process | None:
    """The process with this number, or None; one that has ended and waits for its parent counts as none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], int(fields[19])
    return None if state in "ZX" else Process(pid, started)


def is_alive(process: Process) -> bool:
    """Whether it still runs."""
    return identify(process.pid) == process


def marked(cluster_id: str) -> set[Process]:
    """Living processes of this user that were started with the mark, but for the asking one."""
    return {process for pid in _pids() if _has_mark(pid, cluster_id) and (process := identify(pid))}


def send(process: Process, number: int) -> None:
    """Send a signal, unless the process has ended."""
    if is_alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def end_marked(cluster_id: str, *, grace_s: float = GRACE_S) -> int:
    """End every process with the mark: TERM, and KILL to those still there after ``grace_s``.

    Returns:
        How many there were. Those that came into being meanwhile are among them.

    Raises:
        ConfigurationError: some do not end even so; names them.
    """
    asked: set[Process] = set()
    begin = time.monotonic()
    while alive := marked(cluster_id):
        waited_s = time.monotonic() - begin
        if waited_s > grace_s + KILL_S:
            raise ConfigurationError(f"These processes cannot be ended: {sorted(p.pid for p in alive)}.")
        for process in alive if waited_s > grace_s else alive - asked:
            send(process, signal.SIGKILL if waited_s > grace_s else signal.SIGTERM)
        asked |= alive
        time.sleep(POLL_S)
    return len(asked)


def _pids() -> list[int]:
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in numbers if pid != os.getpid()]


def _has_mark(pid: int, cluster_id: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # ended, or somebody else's
        return False
    return f"{MARK}={cluster_id}".encode() in environment.split(b"\0")
