"""The fields that shape an answer: what they become in a turn, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from cluster.protocol import Structure, StructureKind
from services.gateway.schemas.structure import choice_grammar
from services.turns.events import GenerationOptions
from tests.fakes.fake_turns import FakeTurns
from tests.support.gateway import MODEL

ASK: list[Any] = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"név": {"type": "string"}}}
SCHEMA_TEXT = '{"type":"object","properties":{"név":{"type":"string"}}}'
TOOL = {"type": "function", "function": {"name": "weather"}}
DEEP: dict[str, Any] = {}
for _ in range(40):
    DEEP = {"a": DEEP}

Case = tuple[dict[str, Any], dict[str, Any]]
OPTIONS: list[Case] = [
    ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
    ({"frequency_penalty": -2.0}, {"frequency_penalty": -2.0}),
    ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ({"min_p": 0.05}, {"min_p": 0.05}),
    ({"logit_bias": {"5": -100, "0": 1.5}}, {"logit_bias": {5: -100.0, 0: 1.5}}),
    ({"bad_words": ["no", " 不"]}, {"bad_words": ("no", " 不")}),
    ({"min_tokens": 3}, {"min_tokens": 3}),
    ({"stop_token_ids": [7, 8]}, {"stop_token_ids": (7, 8)}),
    ({"structured_outputs": {"regex": "[ab]+"}}, {"structure": Structure(kind=StructureKind.REGEX, text="[ab]+")}),
    (
        {"structured_outputs": {"grammar": 'root ::= "a"'}},
        {"structure": Structure(kind=StructureKind.GRAMMAR, text='root ::= "a"')},
    ),
    (
        {"structured_outputs": {"choice": ["a", "b"]}},
        {"structure": Structure(kind=StructureKind.GRAMMAR, text='root ::= "a" | "b"')},
    ),
    (
        {"structured_outputs": {"json": SCHEMA}},
        {"structure": Structure(kind=StructureKind.JSON_SCHEMA, text=SCHEMA_TEXT)},
    ),
    (
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"structure": Structure(kind=StructureKind.JSON_SCHEMA, text=SCHEMA_TEXT)},
    ),
    ({"structured_outputs": {"json_object": True}}, {"structure": Structure(kind=StructureKind.JSON_OBJECT)}),
]
CHAT_OPTIONS: list[Case] = [
    ({"logprobs": True}, {"logprobs": 0}),
    ({"logprobs": True, "top_logprobs": 20}, {"logprobs": 20}),
    ({"logprobs": False, "top_logprobs": 0}, {}),
    ({"response_format": {"type": "text"}}, {}),
    ({"response_format": {"type": "json_object"}}, {"structure": Structure(kind=StructureKind.JSON_OBJECT)}),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA, "strict": True}}},
        {"structure": Structure(kind=StructureKind.JSON_SCHEMA, text=SCHEMA_TEXT)},
    ),
    (
        {"response_format": {"type": "json_object"}, "tools": [TOOL], "tool_choice": "none"},
        {"structure": Structure(kind=StructureKind.JSON_OBJECT)},
    ),
]
RESPONSE_OPTIONS: list[Case] = [
    ({"include": ["message.output_text.logprobs"]}, {"logprobs": 0}),
    ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"logprobs": 2}),
    ({"include": []}, {}),
    ({"text": {"format": {"type": "json_object"}}}, {"structure": Structure(kind=StructureKind.JSON_OBJECT)}),
    (
        {"text": {"format": {"type": "json_schema", "name": "p", "schema": SCHEMA, "strict": False}}},
        {"structure": Structure(kind=StructureKind.JSON_SCHEMA, text=SCHEMA_TEXT)},
    ),
]

Refusal = tuple[dict[str, Any], str]
WRONG: list[Refusal] = [
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": "1"}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_p": 1.1}, "min_p"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"5": "1"}}, "logit_bias.5"),
    ({"logit_bias": {"05": 1}}, "logit_bias.05"),
    ({"logit_bias": {"five": 1}}, "logit_bias.five"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"bad_words": "no"}, "bad_words"),
    ({"bad_words": ["a", ""]}, "bad_words[1]"),
    ({"bad_words": ["a"] * 257}, "bad_words"),
    ({"bad_words": ["a" * 65]}, "bad_words[0]"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": [1.0]}, "stop_token_ids[0]"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"choice": [c * 4000 for c in "abcdefghijklmnopqrst"]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": DEEP}}, "structured_outputs.json"),
    ({"structured_outputs": {"grammar": "a" * 65_537}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
    ({"guided_regex": "a"}, "guided_regex"),
    ({"best_of": 2}, "best_of"),
]
WRONG_CHAT: list[Refusal] = [
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": True}, "n"),
    ({"logprobs": 5}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": False, "top_logprobs": 1}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        "response_format.json_schema.name",
    ),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": DEEP}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, "response_format"),
    ({"structured_outputs": {"regex": "a"}, "tools": [TOOL]}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
]
WRONG_RESPONSE: list[Refusal] = [
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"include": "message.output_text.logprobs"}, "include"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "a", "schema": []}}}, "text.format.schema"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ({"text": {"format": {"type": "json_object"}}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
]


def _name(value: object) -> str:
    return json.dumps(value, default=str)[:40]


@pytest.mark.parametrize(("change", "wanted"), [*OPTIONS, *CHAT_OPTIONS], ids=_name)
async def test_chat_fields_reach_the_turn(
    client: httpx.AsyncClient, turns: FakeTurns, change: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Each field becomes exactly one option; all others stay as they are."""
    reply = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK} | change)
    assert reply.status_code == 200, reply.text
    assert turns.asked[0].options == GenerationOptions(**wanted)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(("change", "wanted"), [*OPTIONS, *RESPONSE_OPTIONS], ids=_name)
async def test_response_fields_reach_the_turn(
    client: httpx.AsyncClient,
    turns: FakeTurns,
    change: dict[str, Any],
    wanted: dict[str, Any],
    store: bool,  # noqa: FBT001 - pytest passes by name
) -> None:
    """The same for responses, stored or not."""
    reply = await client.post("/v1/responses", json={"model": MODEL, "input": "hi", "store": store} | change)
    assert reply.status_code == 200, reply.text
    assert turns.asked[0].options == GenerationOptions(**wanted)


@pytest.mark.parametrize(("change", "param"), [*WRONG, *WRONG_CHAT], ids=_name)
async def test_wrong_chat_options(client: httpx.AsyncClient, change: dict[str, Any], param: str) -> None:
    """A value out of range, or a contradiction, is a 400 in OpenAI's shape that names the field."""
    await _refused(client, "/v1/chat/completions", {"model": MODEL, "messages": ASK} | change, param)


@pytest.mark.parametrize(("change", "param"), [*WRONG, *WRONG_RESPONSE], ids=_name)
async def test_wrong_response_options(client: httpx.AsyncClient, change: dict[str, Any], param: str) -> None:
    """The same for responses."""
    await _refused(client, "/v1/responses", {"model": MODEL, "input": "hi"} | change, param)


async def test_a_response_names_its_format(client: httpx.AsyncClient) -> None:
    """The format comes back as it was asked for."""
    wanted = {"type": "json_schema", "name": "p", "schema": SCHEMA}
    reply = await client.post("/v1/responses", json={"model": MODEL, "input": "hi", "text": {"format": wanted}})
    assert reply.json()["text"]["format"] == wanted | {"description": None, "strict": None}


async def test_the_number_of_choices_reaches_the_turn(client: httpx.AsyncClient, turns: FakeTurns) -> None:
    """``n`` is one unless it is given."""
    for change in ({}, {"n": None}, {"n": 8}):
        await client.post("/v1/chat/completions", json={"model": MODEL, "messages": ASK} | change)
    assert [turn.choices for turn in turns.asked] == [1, 1, 8]  # type: ignore[union-attr]  # chat turns


def test_choices_are_their_own_characters() -> None:
    """What has a meaning in a grammar, and what cannot be seen, is escaped; a choice given twice stands once."""
    assert choice_grammar(['a"\\', "b\n", "你 [x]|", "b\n"]) == r'root ::= "a\"\\" | "b\U0000000a" | "你 [x]|"'


async def _refused(client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str) -> None:
    reply = await client.post(path, json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"].startswith(f"{param}: ")
