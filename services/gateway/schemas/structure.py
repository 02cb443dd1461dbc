"""The shape that an answer must have, in OpenAI's words (``response_format``, ``text.format``) and in vLLM's.

Only form and size are checked here: whether a schema, an expression or a grammar can be kept to is known by the engine,
which refuses the request if not. ``strict`` makes no difference, since whatever is asked for is always kept to.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from cluster.protocol import Structure, StructureKind
from services.gateway.schemas.base import RequestBody, depth_of, only

MAX_CHARS = 65_536
MAX_DEPTH = 32
MAX_CHOICES = 1024

_TYPES = ("text", "json_object", "json_schema")
_JSON_OBJECT = Structure(kind=StructureKind.JSON_OBJECT)


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    if depth_of(schema) > MAX_DEPTH:
        raise PydanticCustomError("too_deep", f"Input should be nested at most {MAX_DEPTH} deep")
    if len(_written(schema)) > MAX_CHARS:
        raise PydanticCustomError("too_long", f"Input should have at most {MAX_CHARS} characters")
    return schema


def _written(schema: dict[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _schema(schema: dict[str, Any]) -> Structure:
    return Structure(kind=StructureKind.JSON_SCHEMA, text=_written(schema))


def _read(document: Any) -> dict[str, Any]:
    """A schema as an object, or as text that holds one."""
    if isinstance(document, str) and len(document) <= MAX_CHARS:
        try:
            document = json.loads(document)
        except (ValueError, RecursionError):
            raise PydanticCustomError("json_schema", "Input should be valid JSON") from None
    if not isinstance(document, dict):
        raise PydanticCustomError("json_schema", "Input should be a JSON schema: an object, or its text")
    return _bounded(document)


def _short(choices: list[str]) -> list[str]:
    if len(choice_grammar(choices)) > MAX_CHARS:
        raise PydanticCustomError("too_long", f"All choices together should have at most {MAX_CHARS} characters")
    return choices


FormatName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]
Choice = Annotated[str, Field(min_length=1, max_length=4096)]


class NamedSchema(RequestBody):
    """A schema with a name, which nobody but the caller uses."""

    name: FormatName
    description: str | None = None
    definition: Annotated[dict[str, Any], Field(alias="schema"), AfterValidator(_bounded)]
    strict: bool | None = None

    def structure(self) -> Structure:
        """The same, as the engine is told."""
        return _schema(self.definition)


class PlainText(RequestBody):
    """No shape at all."""

    type: Literal["text"]

    def structure(self) -> None:
        """None."""


class JsonObject(RequestBody):
    """Any JSON object."""

    type: Literal["json_object"]

    def structure(self) -> Structure:
        """The same, as the engine is told."""
        return _JSON_OBJECT


class ChatSchema(RequestBody):
    """A JSON document of a schema, as chat completions ask for it."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    def structure(self) -> Structure:
        """The same, as the engine is told."""
        return self.json_schema.structure()


class ResponseSchema(NamedSchema):
    """A JSON document of a schema, as responses ask for it."""

    type: Literal["json_schema"]


def _format_type(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"<{kind}>" if kind in _TYPES else None


_BY_TYPE = Discriminator(
    _format_type,
    custom_error_type="format",
    custom_error_message="Input should be an object whose type is 'text', 'json_object' or 'json_schema'",
)
ResponseFormat = Annotated[
    Annotated[PlainText, Tag("<text>")]
    | Annotated[JsonObject, Tag("<json_object>")]
    | Annotated[ChatSchema, Tag("<json_schema>")],
    _BY_TYPE,
]
TextFormat = Annotated[
    Annotated[PlainText, Tag("<text>")]
    | Annotated[JsonObject, Tag("<json_object>")]
    | Annotated[ResponseSchema, Tag("<json_schema>")],
    _BY_TYPE,
]


class StructuredOutputs(RequestBody):
    """vLLM's field for the same and more. Exactly one of the five is given."""

    definition: Annotated[dict[str, Any], BeforeValidator(_read)] | None = Field(None, alias="json")
    regex: Text | None = None
    choice: Annotated[list[Choice], Field(min_length=1, max_length=MAX_CHOICES), AfterValidator(_short)] | None = None
    grammar: Text | None = None
    json_object: bool | None = None

    structural_tag: Annotated[Any, only()] = None
    whitespace_pattern: Annotated[Any, only()] = None
    disable_any_whitespace: Annotated[Any, only(False)] = None
    disable_additional_properties: Annotated[Any, only(False)] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = (self.definition, self.regex, self.choice, self.grammar, self.json_object or None)
        if sum(one is not None for one in given) != 1:
            raise PydanticCustomError("one_of", "Give one of json, regex, choice, grammar and json_object")
        return self

    def structure(self) -> Structure:
        """The same, as the engine is told."""
        if self.definition is not None:
            return _schema(self.definition)
        if self.regex is not None:
            return Structure(kind=StructureKind.REGEX, text=self.regex)
        if self.choice is not None:
            return Structure(kind=StructureKind.GRAMMAR, text=choice_grammar(self.choice))
        if self.grammar is not None:
            return Structure(kind=StructureKind.GRAMMAR, text=self.grammar)
        return _JSON_OBJECT


def choice_grammar(choices: list[str]) -> str:
    """An EBNF whose only sentences are ``choices``, each as its own characters."""
    return "root ::= " + " | ".join(f'"{"".join(map(_literal, one))}"' for one in dict.fromkeys(choices))


def _literal(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
