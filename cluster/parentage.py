"""A child that never outlives its parent, whatever ends that one: Ray ends actors with kill -9.

The kernel sends the signal when the *thread* that started the child ends, not only when its process does: whoever
starts one does so in a thread that lives as long as the child may. Imports nothing of the project, so that it can run
before anything else.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent ends; ends it now if that has happened already.

    Args:
        parent: process id of the one that started this one, as that one knew it.
        number: the signal that the kernel sends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:  # it ended before the kernel was asked; somebody else has adopted us
        os._exit(1)


def leave_ending_to_parent() -> None:
    """Ignore what a terminal or a service manager sends to all processes alike.

    The parent ends its turns first and then ends us; it is never gone without us.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def import_path() -> str:
    """Where this process finds modules, as ``PYTHONPATH`` for one that it starts; Ray adds folders after the start."""
    return os.pathsep.join(os.path.abspath(folder) for folder in sys.path)  # noqa: PTH100 -- "" is the current folder
