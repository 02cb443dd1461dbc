"""Events between a turn's owner and its caller."""

from __future__ import annotations

import asyncio

import pytest

from cluster.errors import GenerationFailedError, TurnMovedError
from services.conversations.store import Reply
from services.turns.accepted import NOTHING
from services.turns.events import EventKind, TurnEvent
from services.turns.outbox import Outbox
from services.turns.settings import JournalSettings
from services.turns.ticket import Ticket


def event(seq: int) -> TurnEvent:
    return TurnEvent(seq, 0, EventKind.TEXT_DELTA, "x")


async def no_record() -> Reply:
    raise AssertionError("nothing is written here")


class Gate:
    """A ticket whose clock a test holds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ticket = Ticket(
            JournalSettings(),
            lambda: self.now,
            lambda: None,
            tenant="acme",
            turn="t",
            owner="a",
            sent_at=0.0,
            held=NOTHING,
            on_news=lambda _: None,
            begin_again=no_record,
        )


async def test_a_reader_gets_events_as_they_come_and_ends_with_the_box():
    """In order, and none twice."""
    outbox = Outbox()
    reader = asyncio.ensure_future(_all(outbox))
    for seq in range(3):
        outbox.put([event(seq)])
        await asyncio.sleep(0)
    outbox.close()
    assert [e.seq for e in await reader] == [0, 1, 2]


async def test_an_error_comes_after_the_events_before_it():
    """What was said before it stands; the first close counts."""
    outbox = Outbox()
    outbox.put([event(0)])
    outbox.close(GenerationFailedError("no"))
    outbox.close()
    assert (await anext(outbox)).seq == 0
    with pytest.raises(GenerationFailedError):
        await anext(outbox)


async def test_no_event_leaves_while_the_lease_is_in_doubt():
    """It leaves once a write has succeeded."""
    outbox, gate = Outbox(), Gate()
    outbox.guard(gate.ticket)
    outbox.put([event(0), event(1)])
    assert (await anext(outbox)).seq == 0
    gate.now = 12.0
    second = asyncio.ensure_future(anext(outbox))
    await asyncio.sleep(0)
    assert not second.done()
    gate.ticket.confirm(gate.now)
    assert (await second).seq == 1


async def test_events_of_a_turn_that_somebody_else_has_are_never_said():
    """Even if they lay here before the lease was lost."""
    outbox, gate = Outbox(), Gate()
    outbox.guard(gate.ticket)
    outbox.put([event(0)])
    gate.ticket.fail(TurnMovedError("resp_1"))
    with pytest.raises(TurnMovedError):
        await anext(outbox)


@pytest.mark.parametrize("is_waiting", [False, True], ids=["later", "meanwhile"])
async def test_a_reader_does_not_wait_for_a_lease_that_nobody_renews_any_more(is_waiting):
    """The turn has ended in an error: what was not said while its lease held stays unsaid."""
    outbox, gate = Outbox(), Gate()
    outbox.guard(gate.ticket)
    outbox.put([event(0)])
    gate.now = 12.0 if is_waiting else 0.0
    reader = asyncio.ensure_future(anext(outbox)) if is_waiting else None
    await asyncio.sleep(0)
    outbox.close(GenerationFailedError("no"))
    gate.now = 12.0
    with pytest.raises(GenerationFailedError):
        await asyncio.wait_for(reader or anext(outbox), 1.0)


async def _all(outbox: Outbox) -> list:
    return [e async for e in outbox]
