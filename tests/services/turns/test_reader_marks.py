"""What readers tell the owner of a turn: that they are there."""

from __future__ import annotations

from services.conversations import ids
from services.conversations.records import TurnState
from services.conversations.store import Tailed
from services.turns.settings import TurnSettings
from services.turns.tails import Tails
from tests.fakes.fake_clock import FakeClock
from tests.support.turns import TENANT


class Listener:
    """Hears what looks say; satisfies what ``Tails`` needs of a store."""

    def __init__(self):
        self.heard = []

    async def tail(self, tails):
        self.heard.append([tail.watch_s for tail in tails])
        return [Tailed(TurnState.RUNNING)] * len(tails)


async def test_a_reader_says_now_and_then_that_it_is_there():
    """With its first look, then every five seconds for fifteen, whatever the time of its tenant; not with every look."""
    store, clock = Listener(), FakeClock()
    tails = Tails(store, TurnSettings(resume_s=0.0), clock)
    watches = [tails.open(TENANT, ids.new_response(ids.new_conversation()), TurnState.RUNNING)]
    for _ in range(4):
        await tails._look(watches)
        clock.now += 2.5
    watches.append(tails.open(TENANT, ids.new_response(ids.new_conversation()), TurnState.RUNNING))
    clock.now -= 2.5
    await tails._look(watches)
    assert store.heard == [[15.0], [0.0], [15.0], [0.0], [15.0, 15.0]]
