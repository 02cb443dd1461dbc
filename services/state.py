"""The state folder: what a cluster on this machine keeps between runs, and the lock that gives it to one cluster."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from cluster.errors import ConfigurationError


class Endpoint(msgspec.Struct, frozen=True):
    """Where the running cluster answers, for the other commands of this machine."""

    url: str
    redis_url: str
    model: str
    operator_token: str


class Run(msgspec.Struct, frozen=True):
    """One run of ``up``. Written before anything is started, and kept until nothing of it is left."""

    id: str
    """The mark of its processes, see ``services.processes``."""
    driver_pid: int
    driver_started: int
    folder: str
    """Sockets and Ray's session."""
    address: str
    """The Ray cluster it has joined, or ""."""


class StateFolder:
    """Paths and small files of one state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.valkey = path / "valkey"
        self.models = path / "models"
        self.logs = path / "logs"
        self.ray_logs = self.logs / "ray"
        self._key = path / "api-key"
        self._endpoint = path / "endpoint.json"
        self._run = path / "run.json"
        self._lock: int | None = None

    def acquire(self) -> None:
        """Make the folder and take its lock; the kernel gives it back when this process ends, however it ends.

        Raises:
            ConfigurationError: another cluster uses the folder, or it cannot be written.
        """
        if not self.try_acquire():
            raise ConfigurationError(f"A cluster already runs on {self.path}; stop it, or choose another --state-dir.")

    def try_acquire(self) -> bool:
        """Like ``acquire``, but False when another command has the lock."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"--state-dir {self.path} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close_lock()
            return False
        return True

    def release(self) -> None:
        """Give the folder back."""
        self._endpoint.unlink(missing_ok=True)
        self._close_lock()

    def _close_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read_key(self) -> str:
        """The key that ``up`` made for this machine's user, or ""."""
        return self._key.read_text().strip() if self._key.exists() else ""

    def write_key(self, key: str) -> None:
        """Keep a key, readable by its owner only."""
        _write_private(self._key, key + "\n")

    def read_endpoint(self) -> Endpoint:
        """Where the cluster answers.

        Raises:
            ConfigurationError: no cluster runs on this folder.
        """
        try:
            return msgspec.json.decode(self._endpoint.read_bytes(), type=Endpoint)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(
                f"No cluster runs on {self.path}; start one with `chatglm-cluster up`, or name its --state-dir."
            ) from error

    def write_endpoint(self, endpoint: Endpoint) -> None:
        """Tell the other commands where the cluster answers. Its token is a secret, and the Redis URL may hold one."""
        _write_private(self._endpoint, msgspec.json.encode(endpoint).decode())

    def read_run(self) -> Run | None:
        """The run that goes on, or that was killed and has left something; None after an orderly end."""
        try:
            return msgspec.json.decode(self._run.read_bytes(), type=Run)
        except FileNotFoundError:
            return None

    def write_run(self, run: Run) -> None:
        """Tell ``down`` and the next ``up`` what there will be to remove."""
        _write_private(self._run, msgspec.json.encode(run).decode())

    def forget_run(self) -> None:
        """Nothing is left of it."""
        self._endpoint.unlink(missing_ok=True)
        self._run.unlink(missing_ok=True)


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
