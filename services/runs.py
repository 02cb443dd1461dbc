"""One run of ``up`` from its beginning to the point where nothing of it is left, however the driver ended.

What a run will make is written down before it is made, so that ``down``, or the next ``up``, finds all of it after a
kill -9. A run ends in the same way each time: processes, then logs, then files.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from cluster.errors import ConfigurationError
from services.processes import end_marked, identify
from services.state import Run, StateFolder

BASE = Path("/tmp")  # noqa: S108 - the folder in it is private; a longer path would not hold the sockets (107 bytes)
SESSION_LOGS = Path("session_latest", "logs")

Held = Callable[[], AbstractContextManager[None]]


@contextmanager
def new_run(state: StateFolder, address: str, held: Held = nullcontext) -> Iterator[Run]:
    """A run with a private folder for sockets and for Ray's session; nothing of it is left afterwards.

    Args:
        state: the folder, acquired. What an earlier run has left is removed first.
        address: the Ray cluster to join; empty: one is started here.
        held: what runs in it is not interrupted.

    Raises:
        ConfigurationError: an earlier run, killed, may still serve in the Ray cluster it had joined.
    """
    left = state.read_run()
    if left is not None and left.address:
        raise ConfigurationError(
            f"The cluster of {state.path} was killed and may still serve on {left.address}; "
            "run `chatglm-cluster down` first."
        )
    end_run(state)
    run = _begin(state, address)
    try:
        yield run
    finally:
        with held():
            end_run(state)


def end_run(state: StateFolder) -> int:
    """Remove what is left of the last run on this machine; its logs stay in the state folder.

    Returns:
        How many processes had to be ended.
    """
    run = state.read_run()
    if run is None:
        return 0
    ended = end_marked(run.id)
    folder = Path(run.folder)
    with suppress(OSError):  # a full disk must not keep the rest from being removed
        _keep_logs(folder / SESSION_LOGS, state.ray_logs)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    state.forget_run()
    return ended


def _begin(state: StateFolder, address: str) -> Run:
    driver = identify(os.getpid())
    assert driver is not None
    name = secrets.token_hex(4)
    folder = BASE / f"chatglm-{name}"
    run = Run(name, driver.pid, driver.started, str(folder), address)
    state.write_run(run)
    if not address:
        folder.mkdir(mode=0o700)
        _link_logs(folder / SESSION_LOGS, state.ray_logs)
    return run


def _link_logs(logs: Path, kept: Path) -> None:
    """While the run lasts, its logs are found where they will be kept."""
    _remove(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.symlink_to(logs)


def _keep_logs(logs: Path, kept: Path) -> None:
    if logs.is_dir():
        _remove(kept)
        shutil.copytree(logs, kept)
    elif kept.is_symlink():
        kept.unlink()


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
