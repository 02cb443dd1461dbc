"""What the model is told of the tools it may call.

They are text of the first system message, as ChatGLM3 was trained: the model has no other place for them, and reads
calls out of its answers only where they stand there.
"""

from __future__ import annotations

from typing import Any

from cluster.tokenizer.tool_calls import system_with_tools
from services.turns.events import ChatTurn, Message, Role, Tool


def shown_messages(turn: ChatTurn) -> tuple[Message, ...]:
    """The turn's messages, with its tools in the first one.

    A system message that the caller put first keeps its text, in front of the tools, and stays one message. Without
    tools nothing is changed.

    Raises:
        InvalidRequestError: the tools cannot be written as JSON.
    """
    if not turn.tools:
        return turn.messages
    own, rest = _split(turn.messages)
    return (Message(Role.SYSTEM, system_with_tools(own, [_described(tool) for tool in turn.tools])), *rest)


def _split(messages: tuple[Message, ...]) -> tuple[str, tuple[Message, ...]]:
    if messages and messages[0].role is Role.SYSTEM:
        return messages[0].text, messages[1:]
    return "", messages


def _described(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
