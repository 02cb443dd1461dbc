"""Sampled ids for answers that a stateless caller sends back."""

from __future__ import annotations

import pytest

from cluster.tokenizer.tool_calls import ToolCall
from services.conversations.memory_index import MemoryIdIndex
from services.conversations.store import Sampled
from services.turns.events import Message, Role
from services.turns.metrics import TurnMetrics
from services.turns.splice import answer_key, chain_keys, known_answers
from tests.support.turn_kit import user

HISTORY = (user("Hi"), Message(Role.ASSISTANT, "Hello"), user("more"))


def test_an_answers_key_is_the_one_it_has_in_the_next_request():
    """What was put after one turn is found in the next."""
    assert answer_key("acme", "fp", HISTORY[:1], "Hello") == chain_keys("acme", "fp", HISTORY)[1]


@pytest.mark.parametrize(
    ("tenant", "fingerprint", "first"),
    [
        ("umbrella", "fp", user("Hi")),
        ("acme", "other", user("Hi")),
        ("acme", "fp", user("Ho")),
        ("acme", "fp", Message(Role.SYSTEM, "Hi")),
    ],
)
def test_another_tenant_model_or_beginning_gives_other_keys(tenant, fingerprint, first):
    """A text alone never finds ids."""
    assert chain_keys(tenant, fingerprint, (first, *HISTORY[1:]))[1] != chain_keys("acme", "fp", HISTORY)[1]


def test_where_one_message_ends_and_the_next_begins_counts():
    """Texts that join to the same string have different keys."""
    assert chain_keys("a", "f", (user("ab"), user("c")))[1] != chain_keys("a", "f", (user("a"), user("bc")))[1]


async def test_only_answers_are_looked_up_and_in_one_call():
    """Hits and misses are counted, and each answer gets its own ids."""
    asked = []

    class Index(MemoryIdIndex):
        async def get(self, keys):
            asked.append(list(keys))
            return await super().get(keys)

    index, metrics = Index(), TurnMetrics()
    history = (*HISTORY, Message(Role.ASSISTANT, "Bye"), user("again"))
    keys = chain_keys("acme", "fp", history)
    await index.put(keys[3], Sampled([7, 8]))
    assert await known_answers(index, metrics, history, keys) == {3: Sampled([7, 8])}
    assert asked == [[keys[1], keys[3]]]
    assert (metrics.index_hits, metrics.index_misses) == (1, 1)


async def test_a_history_without_answers_asks_nothing():
    """The first turn of a chat costs no round trip."""
    assert await known_answers(None, TurnMetrics(), HISTORY[:1], [b"k"]) == {}


def key_of(text: str = "", call: ToolCall | None = None) -> bytes:
    return answer_key("acme", "fp", HISTORY[:1], text, call)


def test_a_call_is_known_by_its_values():
    """Clients parse the arguments and write them again in another order; the ids found are the ones sampled."""
    call = ToolCall("f", {"a": 1, "b": {"c": "北", "d": None}})
    same = ToolCall("f", {"b": {"d": None, "c": "北"}, "a": 1})
    assert key_of(call=call) == chain_keys("acme", "fp", (*HISTORY[:1], Message(Role.ASSISTANT, "", same)))[1]


def test_other_calls_have_other_keys():
    """Name, arguments and the text in front all count, and a call is not the text that says the same."""
    calls = [ToolCall("f", {}), ToolCall("g", {}), ToolCall("f", {"a": 1}), ToolCall("f", {"a": "1"}), None]
    keys = [key_of(text, call) for text in ("", "f", "So.") for call in calls]
    assert len(set(keys)) == len(keys)


def test_a_call_is_not_the_messages_that_look_like_it():
    """A tool may be named like a role."""
    called = (Message(Role.ASSISTANT, "", ToolCall("user", {})),)
    written = (Message(Role.ASSISTANT, ""), Message(Role.USER, "{}"))
    assert chain_keys("a", "f", called)[-1] != chain_keys("a", "f", written)[-1]
