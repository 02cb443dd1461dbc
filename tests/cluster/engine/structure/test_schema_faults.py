"""Schemas whose every keyword is carried out pass; others are refused by name."""

from __future__ import annotations

import json

import pytest

from cluster.engine.structure.json_schema import MAX_DEPTH, find_fault

GOOD = [
    True,
    {},
    {"type": "string", "minimum": 3},
    {"type": ["string", "null"], "maxLength": 3},
    {"properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
    {"items": {"type": "null"}, "minItems": 2},
    {"enum": [1, "a", None], "title": "T", "description": "d", "default": 1},
    {"enum": ["a", "b"], "type": "string"},
    {"const": 1, "type": ["number", "null"]},
    {"type": "array", "uniqueItems": False},
    {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}},
    {"type": "object", "properties": {"not": {"type": "string"}, "contains": {"type": "null"}, "if": True}},
]

BAD = [
    ({"not": {}}, "not"),
    ({"if": True, "then": False}, "if"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {"type": "null"}}, "contains"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"minLength": 3}, "minLength"),
    ({"required": ["a"]}, "required"),
    ({"enum": [1], "minimum": 3}, "minimum"),
    ({"enum": [1, "a"], "type": "string"}, "type"),
    ({"const": True, "type": "integer"}, "type"),
    ({"type": "object", "anyOf": [{"type": "string"}]}, "type"),
    ({"anyOf": [{"type": "string"}], "properties": {}}, "properties"),
    ({"$ref": "#/$defs/a", "minLength": 3}, "minLength"),
    ({"type": "object", "properties": {"a": {"items": {"not": {}}}}}, "not"),
    ({"$defs": {"a": {"anyOf": [{"not": {}}]}}}, "not"),
    ({"type": "array", "prefixItems": [{"not": {}}]}, "not"),
    ({"type": "object", "additionalProperties": {"not": {}}}, "not"),
]


@pytest.mark.parametrize("schema", GOOD, ids=json.dumps)
def test_a_schema_without_fault_passes(schema: object) -> None:
    """Annotations, and keywords where they count, are fine; names of properties are no keywords."""
    assert find_fault(json.dumps(schema)) == ""


@pytest.mark.parametrize(("schema", "keyword"), BAD, ids=json.dumps)
def test_a_keyword_that_would_be_ignored_is_named(schema: object, keyword: str) -> None:
    """Wherever in the schema it stands."""
    assert f"'{keyword}'" in find_fault(json.dumps(schema))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": NaN'])
def test_what_is_no_json_is_refused(text: str) -> None:
    """Deep nesting included, which Python's reader cannot follow."""
    assert "not valid JSON" in find_fault(text)


def test_depth_is_bounded() -> None:
    """Compiling takes time beyond all measure in it."""
    deepest = '{"items":' * MAX_DEPTH + "true" + "}" * MAX_DEPTH
    assert find_fault(deepest) == ""
    assert f"{MAX_DEPTH} deep" in find_fault('{"items":' + deepest + "}")
