"""Which JSON schemas the grammar compiler carries out to the letter.

xgrammar passes over some keywords in silence. An answer that only looks as if it fits its schema is worse than a
refusal, so a schema that holds one of them is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

MAX_DEPTH: Final = 64  # schemas inside schemas; compiling takes exponential time in it

_IGNORED: Final = (
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "contains",
    "minContains",
    "maxContains",
    "$dynamicRef",
    "$recursiveRef",
)
_ALONE: Final = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")  # the first of these is all that is looked at
_NUMBER: Final = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_STRING: Final = {"minLength", "maxLength", "pattern"}
_ARRAY: Final = {"items", "prefixItems", "unevaluatedItems", "minItems", "maxItems", "uniqueItems"}
_OBJECT: Final = {
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "required",
    "minProperties",
    "maxProperties",
}
_CONSTRAINTS: Final = _NUMBER | _STRING | _ARRAY | _OBJECT
_IMPLY_A_TYPE: Final = {  # without a type these name one
    "properties",
    "additionalProperties",
    "unevaluatedProperties",
    "items",
    "prefixItems",
    "unevaluatedItems",
}
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions")  # schemas by name
_LISTED: Final = ("prefixItems", "anyOf", "oneOf", "allOf")
_SINGLE: Final = ("items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "propertyNames")
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def find_fault(text: str) -> str:
    """Say in a sentence why this schema cannot be promised, or "" when nothing is known against it."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return "The schema is not valid JSON, or nested too deeply."
    level, depth = [schema], 0
    while level:
        if depth > MAX_DEPTH:
            return f"The schema is nested more than {MAX_DEPTH} deep."
        for part in level:
            if isinstance(part, dict) and (fault := _fault_of(part)):
                return fault
        level = [inner for part in level if isinstance(part, dict) for inner in _inner(part)]
        depth += 1
    return ""


def _inner(schema: dict[str, Any]) -> Iterator[Any]:
    for key in _NAMED:
        if isinstance(schema.get(key), dict):
            yield from schema[key].values()
    for key in _LISTED:
        if isinstance(schema.get(key), list):
            yield from schema[key]
    for key in _SINGLE:
        if key in schema:
            yield schema[key]


def _fault_of(schema: dict[str, Any]) -> str:
    for key in _IGNORED:
        if key in schema:
            return f"The keyword {key!r} is not supported."
    if schema.get("uniqueItems"):
        return "The keyword 'uniqueItems' is not supported."
    chosen = next((key for key in _ALONE if key in schema), None)
    if chosen is not None:
        return _beside(schema, chosen)
    present = sorted(_CONSTRAINTS & schema.keys())
    if present and "type" not in schema and not _IMPLY_A_TYPE & schema.keys():
        return f"The keyword {present[0]!r} needs a 'type' beside it."
    return ""


def _beside(schema: dict[str, Any], chosen: str) -> str:
    """What stands beside a keyword that the compiler takes alone."""
    others = [key for key in sorted((_CONSTRAINTS | set(_ALONE)) & schema.keys()) if key != chosen]
    if others:
        return f"The keyword {others[0]!r} is not supported beside {chosen!r}."
    if "type" not in schema:
        return ""
    values = [schema["const"]] if chosen == "const" else schema.get("enum")
    if values is None or not isinstance(values, list) or not all(_has_type(value, schema["type"]) for value in values):
        return f"The keyword 'type' is not supported beside {chosen!r}, unless every value has that type."
    return ""


def _has_type(value: object, declared: object) -> bool:
    names = declared if isinstance(declared, list) else [declared]
    return any(
        isinstance(value, _TYPES.get(name, ())) and isinstance(value, bool) <= (name == "boolean")
        for name in names
        if isinstance(name, str)
    )
