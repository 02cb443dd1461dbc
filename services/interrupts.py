"""Ctrl-C and SIGTERM as one orderly interrupt of a command that starts and stops many processes.

A handler would not do: Ray puts its own in place of it, in C++ as well, and theirs print a stack and end the process at
once. So both signals are blocked, and one thread waits for them. Threads and programs that are started inherit what is
blocked; programs started with a ``preexec_fn``, as Ray's and Valkey are, have it lifted again.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

NUMBERS = (signal.SIGINT, signal.SIGTERM)
WAKE = signal.SIGUSR1  # interrupts whatever the main thread waits for


class Interrupts:
    """The first signal raises KeyboardInterrupt in the main thread; later ones never cut the stopping short."""

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told
        self._is_held = False
        self._has_come = False
        self._is_waiting = False

    def install(self) -> None:
        """Take the two signals. Main thread only, before it has started any other."""
        resource_tracker.ensure_running()  # it unblocks both signals in whoever starts it, be it later or now
        signal.signal(WAKE, self._interrupt)
        signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
        os.register_at_fork(after_in_child=_unblock)
        threading.Thread(target=_wait, name="interrupts", daemon=True).start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What runs inside is not interrupted: half a Ray node, for one, cannot be stopped properly.

        Raises:
            KeyboardInterrupt: afterwards, when a signal came meanwhile.
        """
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self._is_waiting:
                self._is_waiting = False
                raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if self._has_come:
            return
        self._has_come = True
        self._told()
        if not self._is_held:
            raise KeyboardInterrupt
        self._is_waiting = True


def _wait() -> None:
    main = threading.main_thread().ident
    assert main is not None
    while True:
        signal.sigwait(NUMBERS)
        signal.pthread_kill(main, WAKE)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
