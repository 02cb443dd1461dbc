"""Starts the engine's process and holds what belongs to it: its number, the socket and the shared memory.

``python -m`` instead of multiprocessing: nothing is pickled, the parent's main module (Ray's worker) is not imported
again, and no resource tracker stays behind. The child gets two descriptors and no other.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

from cluster import logs
from cluster.engine.process.vitals import SharedVitals, create_shared_memory
from cluster.parentage import import_path

END_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Child:
    """A started process."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def reap(self) -> int:
        """Wait for its end, which must be near; returns the exit status. Blocking."""
        try:
            return self.process.wait(END_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def spawn(factory: str) -> tuple[Child, socket.socket, SharedVitals]:
    """Start the engine's process. It ends when the calling thread does, see ``parentage``.

    Args:
        factory: ``module:function`` of ``cluster.engine.process.child.Factory``; always a constant of the program.

    Returns:
        The process, our end of the link to it, and the memory shared with it.
    """
    ours, theirs = socket.socketpair()
    memory = create_shared_memory()
    try:
        return Child(_start(factory, theirs.fileno(), memory)), ours, SharedVitals(memory)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(memory)


def _start(factory: str, link: int, vitals: int) -> subprocess.Popen[bytes]:
    arguments = {"parent": os.getpid(), "link": link, "vitals": vitals, "log-name": _log_name()}
    options = [f"--{name}={value}" for name, value in arguments.items()]
    return subprocess.Popen(  # noqa: S603 -- our own module, with arguments of our own
        [sys.executable, "-P", "-m", "cluster.engine.process", *options, factory],
        pass_fds=(link, vitals),
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": import_path()},
        start_new_session=True,  # Ctrl-C in a terminal goes to the parent alone, from the first moment on
    )


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    hint = ", as for want of memory" if -status == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-status).name}{hint}"


def _log_name() -> str:
    return f"{logs.process() or 'replica'}/engine"
