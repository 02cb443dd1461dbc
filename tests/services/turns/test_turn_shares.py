"""A tenant's share and a turn's wish to be kept, on their way to a replica."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.backend.scripted import Fault, FaultKind
from services.tenants.share import Share
from services.turns.events import Message, Role
from services.turns.settings import KeepSettings
from tests.support.turn_kit import collect, user

SHARE = Share(weight=2.5, priority=3)
KEEP = KeepSettings()


def asked(kit):
    """What the only request of a turn says of shares and keeping."""
    (request,) = kit.backend.requests
    return request.weight, request.priority, request.keep_s


@pytest.fixture(params=["chat", "stored"])
def turn(request, kit):
    """A turn of each kind, and the way to run it."""
    if request.param == "chat":
        return kit.service.chat, replace(kit.chat_turn(), share=SHARE)
    return kit.service.respond, replace(kit.stored_turn(), share=SHARE)


async def test_a_turn_carries_its_share_to_the_replica(kit, turn):
    """Weight and class as they were given."""
    run, made = turn
    await collect(run(made))
    assert asked(kit)[:2] == (2.5, 3)


async def test_an_answer_that_moves_keeps_its_share(kit, turn):
    """The next attempt is no more and no less important."""
    run, made = turn
    kit.backend.faults = iter([Fault(FaultKind.LOST, after=2)])
    await collect(run(made))
    assert [(request.weight, request.priority) for request in kit.backend.requests] == [(2.5, 3)] * 2


async def test_every_one_of_several_answers_has_the_share(kit):
    """A caller that asks for three is charged for three, in its own class."""
    await collect(kit.service.chat(replace(kit.chat_turn(), share=SHARE, choices=3)))
    assert [(request.weight, request.priority) for request in kit.backend.requests] == [(2.5, 3)] * 3


async def test_a_turn_that_names_no_share_has_the_default_one(kit):
    """Weight 1, first class."""
    await collect(kit.service.chat(kit.chat_turn()))
    assert asked(kit)[:2] == (1.0, 0)


async def test_a_conversation_is_kept_long(kit):
    """From its first turn on: its id says that there will be more."""
    turn = kit.stored_turn(conversation=await kit.conversation())
    await collect(kit.service.respond(turn))
    assert asked(kit)[2] == KEEP.conversation_s


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("Hi")], 0.0),
        ([Message(Role.SYSTEM, "Be brief."), user("Hi"), user("And how are you?")], 0.0),
        ([user("Hi"), Message(Role.ASSISTANT, "Hello."), user("More")], KEEP.chat_s),
    ],
)
@pytest.mark.parametrize("is_stored", [False, True])
async def test_what_is_no_conversation_is_kept_once_it_has_an_answer(kit, messages, expected, is_stored):
    """A question alone may never be followed; a history that was sent back is likely to come again."""
    if is_stored:
        await collect(kit.service.respond(kit.stored_turn(*messages)))
    else:
        await collect(kit.service.chat(kit.chat_turn(*messages)))
    assert asked(kit)[2] == expected


def test_a_conversation_is_kept_longer_than_a_chat():
    """The defaults, in seconds."""
    assert (KEEP.conversation_s, KEEP.chat_s) == (600.0, 120.0)
