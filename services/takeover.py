"""Takes a state folder from the ``up`` that holds it, which ends as on Ctrl-C."""

from __future__ import annotations

import signal
import time

from cluster.errors import ConfigurationError
from services.processes import Process, send
from services.state import StateFolder

ORDERLY_END_S = 60.0
KILLED_S = 5.0
POLL_S = 0.05


def take_over(state: StateFolder, *, orderly_end_s: float = ORDERLY_END_S) -> bool:
    """Acquire the folder; its ``up`` is asked to stop, and killed when it has not done so in time.

    Returns:
        Whether somebody held it.

    Raises:
        ConfigurationError: the holder does not end.
    """
    if state.try_acquire():
        return False
    for number, patience_s in ((signal.SIGTERM, orderly_end_s), (signal.SIGKILL, KILLED_S)):
        run = state.read_run()
        if run is not None:
            send(Process(run.driver_pid, run.driver_started), number)
        if _acquired_within(state, patience_s):
            return True
    raise ConfigurationError(f"Another command holds {state.path} and does not end; try again in a minute.")


def _acquired_within(state: StateFolder, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not state.try_acquire():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
