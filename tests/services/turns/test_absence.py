"""How long a turn goes on without its caller, on a clock of the test's own."""

from __future__ import annotations

import pytest

from services.turns import absence as module
from services.turns.absence import Absence
from tests.fakes.fake_clock import FakeClock

WAIT_S = 30.0


class FakeLoop(FakeClock):
    """A clock whose timers ring as it is moved."""

    def __init__(self):
        super().__init__()
        self._timers = []

    def call_later(self, delay_s, callback):
        self._timers.append((self.now + delay_s, callback))

    def move(self, seconds):
        until = self.now + seconds
        while due := sorted((timer for timer in self._timers if timer[0] <= until), key=lambda timer: timer[0]):
            self._timers.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = until


@pytest.fixture
def loop(monkeypatch):
    made = FakeLoop()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: made)
    return made


@pytest.fixture
def over(loop):
    """When it was over."""
    return []


@pytest.fixture
def absence(loop, over):
    return Absence(lambda: over.append(loop.now), loop)


def test_a_caller_that_stays_away_is_waited_for(loop, over, absence):
    """So long and no longer, and the end comes once."""
    absence.begin(WAIT_S)
    loop.move(WAIT_S - 1)
    assert over == []
    loop.move(100)
    assert over == [100 + WAIT_S]


def test_nobody_is_waited_for_in_no_time(over, absence):
    """The turn ends as its caller leaves, whoever else reads it."""
    absence.extend(15.0)
    absence.begin(0.0)
    assert over == [100]


@pytest.mark.parametrize(("seen_s", "left_s"), [(5.0, WAIT_S), (40.0, 40.0)])
def test_a_reader_is_the_caller_come_back(loop, over, absence, seen_s, left_s):
    """When it was last heard of the wait begins anew, and it is waited for at least until it said it would look."""
    absence.begin(WAIT_S)
    for _ in range(10):
        loop.move(WAIT_S - 1)
        absence.extend(seen_s)
    loop.move(1000)
    assert over == [100 + 10 * (WAIT_S - 1) + left_s]


def test_no_reader_changes_nothing(loop, over, absence):
    """Most of what the journal hears says nothing of readers."""
    absence.begin(WAIT_S)
    loop.move(WAIT_S - 1)
    absence.extend(0.0)
    loop.move(1)
    assert over == [100 + WAIT_S]
