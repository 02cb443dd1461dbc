"""A chat's messages as the model's own, with each call in front of its result.

OpenAI lets one message make several calls, and the results may follow in any order. ChatGLM3 makes one call a turn and
reads its result at once, so that is how such a history is told: call, result, call, result, in the order of the calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.errors import InvalidRequestError
from services.gateway.schemas.messages import ROLES, AssistantMessage, ChatMessage, ToolMessage, joined
from services.gateway.schemas.tools import CallOfTool
from services.turns.events import Message, Role


def messages_of(history: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The messages in the words of turns.

    Raises:
        InvalidRequestError: a call and its result do not find each other, or an answer says nothing.
    """
    return tuple(_messages(history))


def _messages(history: Sequence[ChatMessage]) -> Iterator[Message]:
    place = 0
    while place < len(history):
        message = history[place]
        calls = (message.tool_calls or ()) if isinstance(message, AssistantMessage) else ()
        end = _end_of_results(history, place + 1)
        results = _results(history, place, end, {call.id for call in calls})
        yield from _told(message, place, calls, results)
        place = end


def _told(message: ChatMessage, place: int, calls: Sequence[CallOfTool], results: dict[str, str]) -> Iterator[Message]:
    assert not isinstance(message, ToolMessage), "a result without a call was refused"
    if message.content is None and not calls:
        raise _refusal(f"messages[{place}].content", "Field required")
    text = joined(message.content or "")
    if not calls:
        yield Message(ROLES[message.role], text)
    for i, call in enumerate(calls):
        if call.id not in results:
            raise _refusal(f"messages[{place}].tool_calls[{i}].id", "No tool message behind this one has its result.")
        yield Message(Role.ASSISTANT, "" if i else text, call.call())
        yield Message(Role.OBSERVATION, results.pop(call.id))


def _end_of_results(history: Sequence[ChatMessage], place: int) -> int:
    while place < len(history) and isinstance(history[place], ToolMessage):
        place += 1
    return place


def _results(history: Sequence[ChatMessage], place: int, end: int, calls: set[str]) -> dict[str, str]:
    """What the tool messages from ``place`` to ``end`` say, by the call they answer."""
    results: dict[str, str] = {}
    for i in range(place, end):
        message = history[i]
        if not isinstance(message, ToolMessage):
            continue
        if message.tool_call_id not in calls or message.tool_call_id in results:
            raise _refusal(f"messages[{i}].tool_call_id", "No call of the message in front waits for this result.")
        results[message.tool_call_id] = joined(message.content)
    return results


def _refusal(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {reason}", param=param)
