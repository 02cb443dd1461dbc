"""Ctrl-C and SIGTERM interrupt once and in order, whatever handlers a library has put in their place."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import concurrent.futures, ctypes, multiprocessing, os, signal, subprocess, sys, time
from services.interrupts import Interrupts
interrupts = Interrupts(lambda: print("told", flush=True))
interrupts.install()
ctypes.CDLL(None).signal(signal.SIGTERM, 0)  # as a C++ library may: the default, which ends the process
signal.signal(signal.SIGINT, lambda *_: os._exit(9))
try:
    {body}
except KeyboardInterrupt:
    for _ in range(3):
        print("stopping", flush=True)
        time.sleep(0.1)
    print("stopped", flush=True)
"""
WAITING = 'print("ready", flush=True); time.sleep(60)'
AFTER_A_POOL = """
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(os.getpid).result()
    print("ready", flush=True)
    time.sleep(60)
"""
HOLDING = """
    with interrupts.held():
        print("ready", flush=True)
        begin = time.monotonic()
        while time.monotonic() < begin + 0.5: time.sleep(0.05)
        print("whole", flush=True)
    time.sleep(60)
"""
AGAIN = """
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        with interrupts.held():
            print("removed", flush=True)
"""
CHILD = """
    child = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
    done = subprocess.Popen(child, preexec_fn=lambda: None)
    time.sleep(0.5)
    done.terminate()
    print(done.wait(), flush=True)
"""


def run(body: str, *numbers: int) -> list[str]:
    """What a program prints after it was ready, when it gets signals meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(body=body)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
    return process.communicate(timeout=30)[0].split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_wait_in_order(number: int) -> None:
    """Although both signals have other handlers by now, in C and in Python."""
    assert run(WAITING, number) == ["told", "stopping", "stopping", "stopping", "stopped"]


def test_a_pool_of_processes_changes_nothing() -> None:
    """The standard library unblocks both signals when it starts its first one."""
    assert run(AFTER_A_POOL, signal.SIGTERM) == ["told", "stopping", "stopping", "stopping", "stopped"]


def test_later_signals_do_not_cut_the_stopping_short() -> None:
    """However many come, of either kind."""
    ends = [signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT]
    assert run(WAITING, *ends) == ["told", "stopping", "stopping", "stopping", "stopped"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_held_part_is_finished_first(number: int) -> None:
    """The person is told at once, the part runs to its end, and then the interrupt comes."""
    assert run(HOLDING, number) == ["told", "whole", "stopping", "stopping", "stopping", "stopped"]


def test_what_is_held_after_an_interrupt_is_not_interrupted_by_it_again() -> None:
    """It has come once already."""
    assert run(AGAIN, signal.SIGTERM) == ["told", "removed", "stopping", "stopping", "stopping", "stopped"]


def test_programs_that_are_started_can_be_ended() -> None:
    """They do not inherit that SIGTERM is blocked."""
    assert run(CHILD) == ["-15"]
