"""Tool calls as ChatGLM3 writes them, as values, and as JSON.

A tool turn is the tool's name, a newline, and a fenced call of the pseudo function ``tool_call``; a prose answer begins
with the newline, as its header is empty. The name never stands in the call itself, and in a prompt it is the metadata
of the assistant's message. The published model evaluates the call as Python; here it is only ever data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cluster.errors import InvalidRequestError, ToolCallError
from cluster.tokenizer.literals import MAX_CHARS, NAME, parse_call
from cluster.tokenizer.template import content_with_tools

TOOLS_SENTENCE: Final = (
    "Answer the following questions as best as you can. You have access to the following tools:"  # as it was trained
)
_FUNCTION: Final = "tool_call"
_FENCE: Final = "```"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of one tool. ``arguments`` are JSON values by parameter; two calls are equal when their values are."""

    name: str
    arguments: Mapping[str, Any]


def split_answer(text: str) -> tuple[str, str]:
    """An answer's header and what follows it. The header is the name of a tool, or "" for prose.

    An answer without any newline has no header either: the published model takes it for prose too.
    """
    header, newline, body = text.partition("\n")
    return (header.strip(), body) if newline else ("", text)


def read_call(text: str) -> ToolCall:
    """The call that a whole tool turn makes.

    White space around the fences is no matter: a decoded turn has a blank before the first, and some end in a newline.

    Raises:
        ToolCallError: it has no name, no fence, or something else than one call with literal arguments between the
            fences; also when it is cut off. The error keeps the text.
    """
    name, body = split_answer(text)
    if not name:
        raise ToolCallError("The answer names no tool.", text=text)
    try:
        return ToolCall(name, parse_call(_unfenced(body), _FUNCTION))
    except ValueError as error:
        raise ToolCallError(str(error), text=text) from error


def call_content(arguments: Mapping[str, Any]) -> str:
    """The content of an assistant's message that calls a tool (its metadata is the tool's name): a fenced call.

    ``read_call`` of the name, a newline and this gives the same arguments again.

    Raises:
        InvalidRequestError: there is no such call: a parameter's name is no name in Python, a number is not finite or
            too long, a text holds a lone surrogate, values are nested too deep, or the call is too long.
    """
    if not all(NAME.fullmatch(name) for name in arguments):
        raise InvalidRequestError("Each argument's name must be one that Python allows: letters, digits and _.")
    try:
        call = f"{_FUNCTION}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
        parse_call(call, _FUNCTION)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"The arguments cannot be written as a call: {error}") from error
    return f"{_FENCE}python\n{call}\n{_FENCE}"


def arguments_json(arguments: Mapping[str, Any], *, is_canonical: bool = False) -> str:
    """The arguments as a JSON object. Canonical ones are equal for equal values, in whatever order they came."""
    return json.dumps(arguments, ensure_ascii=False, sort_keys=is_canonical)


def arguments_of_json(text: str) -> dict[str, Any]:
    """The arguments that a JSON object holds, fit for ``call_content``.

    Raises:
        InvalidRequestError: it is no JSON object, or cannot be written as a call.
    """
    if len(text) > MAX_CHARS:
        raise InvalidRequestError(f"The arguments are longer than {MAX_CHARS} characters.")
    try:
        arguments = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("The arguments must be valid JSON.") from error
    if not isinstance(arguments, dict):
        raise InvalidRequestError("The arguments must be a JSON object.")
    call_content(arguments)
    return arguments


def system_with_tools(system: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """The content of the system message that offers ``tools``, each a mapping of name, description and parameters.

    A system text of the caller's own stands in front, on a line of its own. (The published demo server drops it.)

    Raises:
        InvalidRequestError: the tools cannot be written as JSON.
    """
    return content_with_tools(f"{system}\n{TOOLS_SENTENCE}" if system else TOOLS_SENTENCE, list(tools))


def _unfenced(body: str) -> str:
    """What stands between the fences. Whatever the first one names as the language is as good as Python."""
    opening, _, rest = body.strip().partition("\n")
    if not opening.startswith(_FENCE):
        raise ValueError("The call is not fenced.")
    if not rest.endswith(_FENCE):
        raise ValueError("The fence around the call is not closed.")
    return rest.removesuffix(_FENCE)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
