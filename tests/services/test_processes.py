"""Processes are found by the mark they were started with, and ended for certain."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from services.processes import MARK, Process, end_marked, identify, is_alive, marked, send
from tests.support.waiting import wait_until

SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); time.sleep(60)"

Starter = Callable[[str, str], subprocess.Popen[bytes]]


@pytest.fixture
def mark() -> str:
    """A mark that nobody else has."""
    return secrets.token_hex(8)


@pytest.fixture
def start() -> Iterator[Starter]:
    """Start Python programs with a mark; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []
    marks: set[str] = set()

    def run(program: str, mark: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, MARK: mark}
        started.append(subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE))
        marks.add(mark)
        return started[-1]

    yield run
    for used in marks:
        end_marked(used, grace_s=0)
    for process in started:
        process.communicate()


def test_children_carry_the_mark_and_strangers_do_not(mark: str, start: Starter) -> None:
    """A program, what it starts, and nothing else: not the asking process, and not one whose mark only begins so."""
    parent = start(PARENT, mark)
    stranger = start(SLEEP, mark + "0")
    wait_until(lambda: len(marked(mark)) == 2, what="parent and child")
    pids = {process.pid for process in marked(mark)}
    assert parent.pid in pids
    assert not {stranger.pid, os.getpid()} & pids


def test_all_are_ended_and_counted(mark: str, start: Starter) -> None:
    """Both end on TERM; the stranger lives on."""
    stranger = start(SLEEP, mark + "0")
    start(PARENT, mark)
    wait_until(lambda: len(marked(mark)) == 2, what="parent and child")
    assert end_marked(mark) == 2
    assert marked(mark) == set()
    assert stranger.poll() is None


def test_a_process_that_ignores_term_is_killed(mark: str, start: Starter) -> None:
    """After the grace, and not before it."""
    process = start(STUBBORN, mark)
    assert process.stdout is not None
    process.stdout.readline()
    assert end_marked(mark, grace_s=0.3) == 1
    assert process.wait() == -9


def test_nothing_to_end_is_no_error(mark: str) -> None:
    """Zero, at once."""
    assert end_marked(mark) == 0


def test_an_ended_process_is_not_alive_though_nobody_has_waited_for_it(mark: str, start: Starter) -> None:
    """A zombie holds no port and no memory."""
    process = start("", mark)
    wait_until(lambda: identify(process.pid) is None, what="the end")
    assert process.returncode is None


def test_a_later_process_of_the_same_number_is_left_alone(mark: str, start: Starter) -> None:
    """The kernel gives numbers out again; the time of the start tells them apart."""
    found = identify(start(SLEEP, mark).pid)
    assert found is not None
    earlier = Process(found.pid, found.started - 1)
    send(earlier, 9)
    assert not is_alive(earlier)
    assert is_alive(found)
