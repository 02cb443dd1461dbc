"""What the model is told of tools."""

from __future__ import annotations

import json

from cluster.tokenizer.tool_calls import TOOLS_SENTENCE
from services.turns.events import ChatTurn, Message, Role, Tool
from services.turns.pin import stateless_key
from services.turns.tools import shown_messages
from tests.support.turn_kit import user

WEATHER = Tool("get_weather", "<|user|> 天气", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = Tool("clock", "", {})


def shown(*messages: Message, tools: tuple[Tool, ...] = (WEATHER,)) -> tuple[Message, ...]:
    return shown_messages(ChatTurn("acme", "req_1", messages, tools=tools))


def test_tools_are_a_system_message_in_front():
    """The sentence the model was taught, then the schemas in the order name, description, parameters."""
    system, question = shown(user("Hi"), tools=(WEATHER, CLOCK))
    head, _, listed = system.text.partition("\n")
    assert (system.role, head, question) == (Role.SYSTEM, TOOLS_SENTENCE, user("Hi"))
    assert [list(tool.items()) for tool in json.loads(listed)] == [
        [("name", "get_weather"), ("description", "<|user|> 天气"), ("parameters", WEATHER.parameters)],
        [("name", "clock"), ("description", ""), ("parameters", {})],
    ]
    assert '\n    {\n        "name": "get_weather",\n' in system.text


def test_the_callers_own_system_message_keeps_its_text():
    """One system message says both, the caller's text first; a later one stays where it stands."""
    late = Message(Role.SYSTEM, "Be brief.")
    system, *rest = shown(Message(Role.SYSTEM, "Be kind."), user("Hi"), late)
    assert system.text.startswith(f"Be kind.\n{TOOLS_SENTENCE}\n[")
    assert rest == [user("Hi"), late]


def test_an_empty_system_message_leaves_no_empty_line():
    """There is nothing to put in front."""
    assert shown(Message(Role.SYSTEM, ""), user("Hi")) == shown(user("Hi"))


def test_without_tools_nothing_changes():
    """The messages are the caller's."""
    assert shown(user("Hi"), tools=()) == (user("Hi"),)


def test_chats_with_other_tools_want_other_replicas():
    """Tools are the beginning of the prompt, so they are part of what equal beginnings share."""
    keys = {stateless_key("acme", shown(user("Hi"), tools=tools), None) for tools in ((), (WEATHER,), (CLOCK,))}
    assert len(keys) == 3
