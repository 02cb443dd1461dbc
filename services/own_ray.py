"""Ray on this machine: started for one cluster, and stopped with it.

Its session lives in the folder of the run, not in Ray's shared one, so that all of it can be found and removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve

from services.deploying import APP_NAME
from services.interrupts import Interrupts
from services.settings import ClusterSettings
from services.state import Run, StateFolder

STOP_TIMEOUT_S = 15.0
OBJECT_STORE_BYTES = 78_643_200  # Ray's smallest; tokens never pass through it


@contextmanager
def own_ray(settings: ClusterSettings, run: Run, state: StateFolder, interrupts: Interrupts) -> Iterator[None]:
    """Start Ray here; at the end let running turns finish for a bounded time, then stop what is left."""
    try:
        with interrupts.held():
            _start(settings, run)
        yield
    finally:
        _stop(state)


def _start(settings: ClusterSettings, run: Run) -> None:
    logging.getLogger("ray").setLevel(logging.WARNING)
    needed = settings.most_replicas + settings.gateways + settings.most_dispatchers + 3
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, needed),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        namespace=APP_NAME,
        _temp_dir=run.folder,
    )


def _stop(state: StateFolder) -> None:
    """Ray reports every process that it ends; that goes to a log, not to the person who asked for it."""
    state.logs.mkdir(parents=True, exist_ok=True)
    with (state.logs / "stop.log").open("w") as log, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        if ray.is_initialized():
            stopping = threading.Thread(target=serve.shutdown, daemon=True)
            stopping.start()
            stopping.join(STOP_TIMEOUT_S)
        ray.shutdown()
