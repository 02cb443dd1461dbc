"""What all request bodies share: strictness, text unions, fields not offered yet.

Bodies are validated straight from JSON bytes, so strictness is JSON's: ``1`` is a float, ``"1"`` and ``true`` are not.
Tags of unions are written ``<so>``; ``body.param_of`` drops them from field names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Tag
from pydantic_core import PydanticCustomError, core_schema

MAX_INT32 = 2**31 - 1
MAX_INT63 = 2**63 - 1


class RequestBody(BaseModel):
    """Strict about types, deaf to unknown fields, and never quotes its input in an error."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Shape(BaseModel):
    """Something the gateway answers; every field is written, null ones too."""

    model_config = ConfigDict(frozen=True)

    def json_bytes(self) -> bytes:
        """UTF-8 JSON."""
        return self.model_dump_json().encode()


@dataclass(frozen=True, slots=True)
class Only:
    """Accept a field that OpenAI knows and we do not offer, as long as it asks for nothing: null or ``allowed``."""

    allowed: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """What the annotated type checks, and then ours."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, _: GetJsonSchemaHandler) -> dict[str, Any]:
        """The values that ask for nothing."""
        return {"enum": [None, *self.allowed], "description": "Not supported yet."}

    def _check(self, value: object) -> object:
        if value is None or any(type(value) is type(default) and value == default for default in self.allowed):
            return value
        raise PydanticCustomError("unsupported", "This field is not supported yet; leave it out.")


def only(*allowed: Any) -> Only:
    """See Only."""
    return Only(allowed)


def one_or_many(what: str) -> Discriminator:
    """Tell a string (``<one>``) from a list (``<many>``), so that an error names one field, not two branches."""

    def kind(value: Any) -> str | None:
        if isinstance(value, str):
            return "<one>"
        return "<many>" if isinstance(value, list) else None

    return Discriminator(
        kind, custom_error_type="string_or_list", custom_error_message=f"Input should be a string or a list of {what}"
    )


def depth_of(document: Any) -> int:
    """How deep lists and objects stand inside each other; a plain value has depth 0."""
    depth, level = 0, [document]
    while level := [child for node in level if isinstance(node, dict | list) for child in _children(node)]:
        depth += 1
    return depth


def _children(node: dict[str, Any] | list[Any]) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else node


StopString = Annotated[str, Field(min_length=1, max_length=1024)]
Stop = Annotated[
    Annotated[StopString, Tag("<one>")] | Annotated[list[StopString], Field(max_length=4), Tag("<many>")],
    one_or_many("strings"),
]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
MaxTokens = Annotated[int, Field(ge=1)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
