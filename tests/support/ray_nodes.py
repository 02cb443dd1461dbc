"""Several Ray nodes on one machine, started as an operator starts them on several."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.ports import unused_port
from services.processes import MARK, Process, end_marked, marked, send
from services.ray_environment import complete, of_one_machine
from tests.support.waiting import wait_until

RAY = Path(sys.executable).parent / "ray"
OBJECT_STORE_BYTES = 78_643_200


class RayNode:
    """One `ray start` with everything that comes of it. Its processes are known by a mark."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.mark = secrets.token_hex(8)
        self._log = folder / f"{self.mark}.log"
        command = [str(RAY), "start", "--block", "--num-cpus", "8", "--object-store-memory", str(OBJECT_STORE_BYTES)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *arguments],
                env={**os.environ, **environment, MARK: self.mark},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self._is_up, timeout_s=90, what="a Ray node")
        except AssertionError:
            self.kill()
            raise

    def running(self, part: str) -> list[Process]:
        """Its processes whose command line holds ``part``."""
        return [process for process in marked(self.mark) if part in _command_line(process)]

    def kill(self) -> None:
        """End all of it at once, as when a machine loses power."""
        for process in marked(self.mark):
            send(process, 9)
        end_marked(self.mark, grace_s=0)
        self._process.wait()

    def stop(self) -> None:
        """End all of it in order."""
        end_marked(self.mark)
        self._process.wait()

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return "--block" in self._log.read_text()


class RayNodes:
    """A head, and workers that have joined it."""

    def __init__(self, folder: Path) -> None:
        workers_port = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(unused_port())}  # one machine has each port once
        self.environment = complete() | of_one_machine(folder) | workers_port
        self._folder = folder
        self._port = unused_port()
        self.head = self._node(
            "--head", "--port", str(self._port), "--include-dashboard", "false", "--ray-client-server-port", str(unused_port()),
            "--temp-dir", str(folder),
        )  # fmt: skip
        self.workers: list[RayNode] = []

    @property
    def address(self) -> str:
        """What `up --address` takes."""
        return f"127.0.0.1:{self._port}"

    def add_worker(self) -> RayNode:
        """Another machine, as far as Ray can tell: it has an address of its own."""
        ip = f"127.0.0.{len(self.workers) + 2}"
        self.workers.append(self._node("--address", self.address, "--node-ip-address", ip))
        return self.workers[-1]

    def stop(self) -> None:
        """End all nodes, workers first."""
        for node in (*self.workers, self.head):
            node.stop()

    def _node(self, *arguments: str) -> RayNode:
        ports = {f"RAY_SERVE_HAPROXY_{name}_PORT": str(unused_port()) for name in ("METRICS", "STATS")}
        return RayNode(self._folder, self.environment | ports, *arguments)


@contextmanager
def running_nodes() -> Iterator[RayNodes]:
    """A head for the time of a ``with``; its folder is short, because it holds sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rn"))
    try:
        nodes = RayNodes(folder)
        try:
            yield nodes
        finally:
            nodes.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command_line(process: Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_text()
    except OSError:
        return ""
