"""What a cluster leaves on the machine: processes, listening ports, and temporary files.

Ports and processes are learned while the cluster runs, so that those of others do not count. Of files, everything in
the temporary folder that the cluster was given counts, and whatever new there is where Ray and HAProxy put things
without being asked.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from services.processes import marked
from services.state import StateFolder
from tests.support.cluster import ClusterProcess

SETTLE_S = 1.0
PATTERNS = (
    "tmp/chatglm-*",
    "tmp/ray*",
    "tmp/ray/*",
    "tmp/haproxy*",
    "tmp/haproxy*/*",
    "dev/shm/*plasma*",
    "dev/shm/*ray*",
)


class Leftovers:
    """``learn`` while the cluster runs, and ask for ``found`` after its end."""

    def __init__(self, cluster: ClusterProcess, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._before = _files()
        self._processes: set[psutil.Process] = set()
        self._marks: set[str] = set()
        self.ports: set[int] = set()
        """All on which it has listened."""

    def learn(self) -> None:
        """Remember the processes that the cluster has now, and where they listen."""
        run = StateFolder(self._cluster.state_dir).read_run()
        assert run is not None
        self._marks.add(run.id)
        processes = {*self._cluster.processes(), *(psutil.Process(process.pid) for process in marked(run.id))}
        for process in processes:
            self.ports |= _listening(process)
        self._processes |= processes

    def found(self) -> list[str]:
        """Everything that is still there; Python's own resource tracker ends only behind the process that it watches."""
        deadline = time.monotonic() + SETTLE_S
        while (left := self._found_now()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def _found_now(self) -> list[str]:
        alive = [told for p in self._processes if (told := _alive(p))]
        alive += [f"process {p.pid}" for mark in self._marks for p in marked(mark)]
        ports = [f"port {port}" for port in self.ports & _all_listening()]
        return alive + ports + [str(path) for path in sorted({*(_files() - self._before), *self._folder.iterdir()})]


@contextmanager
def leftovers_of(cluster: ClusterProcess) -> Iterator[Leftovers]:
    """For a cluster that has not been started yet; its folder for temporary files is short, for the sake of sockets."""
    with tempfile.TemporaryDirectory(prefix="lo", ignore_cleanup_errors=True) as folder:
        cluster.environment["TMPDIR"] = folder
        yield Leftovers(cluster, Path(folder))


def _files() -> set[Path]:
    return {path for pattern in PATTERNS for path in Path("/").glob(pattern)}


def _alive(process: psutil.Process) -> str:
    """What a process is that has not ended; empty when it has."""
    with suppress(psutil.NoSuchProcess):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return f"process {process.pid}, {process.status()}, {' '.join(process.cmdline()[:4])}"
    return ""


def _listening(process: psutil.Process) -> set[int]:
    with suppress(psutil.Error):
        return {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return set()


def _all_listening() -> set[int]:
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {int(fields[1].rpartition(":")[2], 16) for fields in lines if fields[3] == "0A"}
