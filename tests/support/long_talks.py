"""Conversations of many turns through a turn kit, and whether messages open a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cluster.protocol import Usage
from services.conversations.records import Item
from services.turns.events import Message, StoredTurn, Truncation, TurnEvent, TurnStarted
from services.turns.prompt import PromptMessage, pieces
from tests.support.turn_kit import TENANT, TurnKit, collect, user

RULE = Item(id="", role="system", text="Be kind.")


def automatic(kit: TurnKit, *messages: Message, **fields: Any) -> StoredTurn:
    """A stored turn that leaves out what does not fit."""
    return replace(kit.stored_turn(*messages, **fields), truncation=Truncation.AUTO)


async def respond(kit: TurnKit, conversation: str, text: str, **fields: Any) -> tuple[TurnStarted, list[TurnEvent]]:
    """All of such a turn."""
    turn = automatic(kit, user(text), conversation=conversation, **fields)
    return await collect(kit.service.respond(turn))


async def talk(kit: TurnKit, conversation: str, num_turns: int) -> list[tuple[Usage, str]]:
    """Usage and window of each turn."""
    told = []
    for turn in range(num_turns):
        started, events = await respond(kit, conversation, f"Question {turn}")
        record = await kit.store.turn(TENANT, started.response_id)
        assert events[-1].result is not None
        told.append((events[-1].result.usage, record.request.window))
    return told


async def ruled(kit: TurnKit, *items: Item) -> str:
    """A conversation with a system message, and maybe more."""
    return (await kit.store.create(TENANT, metadata={}, items=[RULE, *items])).id


def long_past(num_turns: int, *, old: str = "\ud800") -> list[Item]:
    """Turns of about 20 tokens, none of them answered here; the older half says ``old``, which has no ids."""
    texts = [old if turn < num_turns // 2 else f"What about the number {turn}?" for turn in range(num_turns)]
    return [Item(id="", role=role, text=text) for text in texts for role in ("user", "assistant")]


def in_prompt(kit: TurnKit, messages: Sequence[PromptMessage], prompt: Sequence[int]) -> bool:
    """Whether the messages open the prompt."""
    ids = [token_id for piece in pieces(kit.tokenizer, messages) for token_id in piece.ids]
    return list(prompt[2 : 2 + len(ids)]) == ids
