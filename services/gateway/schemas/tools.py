"""Tools and calls of them, as strangers write them.

Sizes are bounded here: a definition becomes part of the prompt, indented, so nesting multiplies what was sent.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from cluster.errors import InvalidRequestError
from cluster.tokenizer import tool_calls
from cluster.tokenizer.tool_calls import ToolCall
from services.gateway.schemas.base import RequestBody, depth_of, only
from services.turns.events import Tool

MAX_TOOLS = 128
MAX_TOOLS_CHARS = 65_536  # all definitions together, as JSON without blanks
MAX_SCHEMA_DEPTH = 32
NO_PARAMETERS = {"type": "object", "properties": {}}  # what OpenAI takes a missing schema for

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


def _bounded(parameters: dict[str, Any]) -> dict[str, Any]:
    if parameters.get("type", "object") != "object":
        raise PydanticCustomError("parameters", "Input should be a schema of type 'object'")
    if depth_of(parameters) > MAX_SCHEMA_DEPTH:
        raise PydanticCustomError("too_deep", f"Input should be nested at most {MAX_SCHEMA_DEPTH} deep")
    return parameters


class FunctionDefinition(RequestBody):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_bounded)] | None = None
    strict: Annotated[Any, only(False)] = None


class FunctionTool(RequestBody):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition

    def tool(self) -> Tool:
        """The same, in the words of turns."""
        function = self.function
        parameters = NO_PARAMETERS if function.parameters is None else function.parameters
        return Tool(function.name, function.description or "", parameters)


def _small(tools: list[FunctionTool]) -> list[FunctionTool]:
    definitions = [tool.function.model_dump() for tool in tools]
    if len(json.dumps(definitions, ensure_ascii=False, allow_nan=False, separators=(",", ":"))) > MAX_TOOLS_CHARS:
        raise PydanticCustomError("too_long", f"All tools together should have at most {MAX_TOOLS_CHARS} characters")
    return tools


Tools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS), AfterValidator(_small)]


def tools_of(tools: list[FunctionTool]) -> tuple[Tool, ...]:
    """The tools in the words of turns.

    Raises:
        InvalidRequestError: two have the same name.
    """
    names: set[str] = set()
    for i, tool in enumerate(tools):
        if tool.function.name in names:
            param = f"tools[{i}].function.name"
            raise InvalidRequestError(f"{param}: Another tool has this name.", param=param)
        names.add(tool.function.name)
    return tuple(tool.tool() for tool in tools)


def _arguments(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    try:
        return tool_calls.arguments_of_json(text)
    except InvalidRequestError as error:
        raise PydanticCustomError("tool_arguments", "{reason}", {"reason": str(error)}) from None


class CalledFunction(RequestBody):
    """A function and what it was called with: an object, written as JSON in a string."""

    name: FunctionName
    arguments: Annotated[dict[str, Any], PlainValidator(_arguments), WithJsonSchema({"type": "string"})]


class CallOfTool(RequestBody):
    """A call that an assistant made, as it was answered."""

    id: CallId
    type: Literal["function"]
    function: CalledFunction

    def call(self) -> ToolCall:
        """The same, in the words of turns."""
        return ToolCall(self.function.name, self.function.arguments)
