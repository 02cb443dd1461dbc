"""A child that never outlives its parent, whatever ends that one: Ray ends actors with kill -9.

The kernel sends the signal when the *thread* that started the child ends, not only when its process does: whoever
starts one does so in a thread that lives as long as the child may. Imports nothing of the project, so that it can run
before anything else.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; ends it now if that has happened already.

    Args:
        parent: process id of the one that started this one, as that one knew it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
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
