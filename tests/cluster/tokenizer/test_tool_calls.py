"""ChatGLM3's tool turns, their values and their JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidRequestError, ToolCallError
from cluster.tokenizer.template import chat_input_ids, message_ids
from cluster.tokenizer.tool_calls import (
    TOOLS_SENTENCE,
    ToolCall,
    arguments_json,
    arguments_of_json,
    call_content,
    read_call,
    split_answer,
    system_with_tools,
)
from tests.cluster.tokenizer.recorded import DATA

POLICY: dict[str, list[dict[str, Any]]] = json.loads((DATA / "tool_call_safety.json").read_text(encoding="utf-8"))
NESTED = "[" * 5000 + "]" * 5000

arguments = st.dictionaries(
    st.from_regex(r"[^\W\d]\w{0,8}", fullmatch=True),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**60), 10**60) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("a'\"\\\n`你", max_size=4), inner, max_size=3)
        ),
        max_leaves=8,
    )
    | st.floats(allow_nan=False, allow_infinity=False),
    max_size=4,
)


@pytest.mark.parametrize("case", POLICY["accept"], ids=lambda case: case["body"][:40])
def test_literal_calls_are_read(case):
    """The policy's good calls give exactly its parameters."""
    assert read_call(case["output"]) == ToolCall("get_x", case["parameters"])


@pytest.mark.parametrize("case", POLICY["reject"], ids=lambda case: case["body"][:40])
def test_everything_else_is_refused_with_its_text(case):
    """The policy's bad calls raise the typed error, which keeps the text and does not repeat it in its message."""
    with pytest.raises(ToolCallError) as caught:
        read_call(case["output"])
    assert caught.value.text == case["output"]
    assert not case["body"] or case["body"] not in str(caught.value)


@given(arguments)
def test_what_is_written_is_read_again(values):
    """Arguments, their call and their JSON are three ways to say the same."""
    assert read_call(f"f\n{call_content(values)}") == ToolCall("f", values)
    assert arguments_of_json(arguments_json(values)) == values


@given(arguments, st.randoms())
def test_canonical_json_does_not_know_the_order(values, random):
    """Equal values in another order are equal JSON; others are not."""
    names = list(values)
    random.shuffle(names)
    shuffled = {name: values[name] for name in names}
    assert arguments_json(shuffled, is_canonical=True) == arguments_json(values, is_canonical=True)
    assert arguments_json({**values, "one_more": 1}, is_canonical=True) != arguments_json(values, is_canonical=True)


@pytest.mark.parametrize(
    "body",
    [
        "```python\ntool_call(a=1)\n```",
        " ```python\ntool_call(a=1)\n```",  # the blank that decoding puts behind the header
        "```python\ntool_call(a=1)\n```\n",
        "```\n  tool_call(a=1)  # so\n``` \n\n",
        "```json\ntool_call(\n    a=1,\n)```",
    ],
)
def test_white_space_and_languages_around_the_call_are_no_matter(body):
    """What the published parser trips over is read."""
    assert read_call(f" f \n{body}") == ToolCall("f", {"a": 1})


def test_fences_inside_a_text_are_text():
    """Only the last fence closes the call."""
    code = "```\nx\n```"
    assert read_call(f"f\n{call_content({'code': code})}").arguments == {"code": code}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n```python\ntool_call()\n```",
        "f",
        "f\n",
        "f\ntool_call()",
        "f\n```",
        "f\n```python tool_call()```",
        "f\n```python\ntool_call(",
        "f\n```python\ntool_call(a='x')",
        "f\n```python\ntool_call(a='```",
        "f\n```python\ntool_call()\n```<|assistant|>\nDone",
    ],
)
def test_a_turn_without_name_or_fence_or_end_is_no_call(text):
    """Prose, a bare call, one that is cut off and one that goes on are refused."""
    with pytest.raises(ToolCallError) as caught:
        read_call(text)
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n Hello\nyou", ("", " Hello\nyou")),
        ("  \n Hello", ("", " Hello")),
        (" get_x \n ```", ("get_x", " ```")),
        ("Hello", ("", "Hello")),
        ("", ("", "")),
    ],
)
def test_the_header_tells_prose_from_a_call(text, expected):
    """The first line is the header; without a newline there is none."""
    assert split_answer(text) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"max-results": 1},
        {"": 1},
        {"a=1, b": 2},
        {"a\n": 1},
        {"a": float("inf")},
        {"a": float("nan")},
        {"a": 10**101},
        {"a": "\ud800"},
        {"a": "x" * 70_000},
        {"a": json.loads("[" * 100 + "]" * 100)},
    ],
)
def test_arguments_that_no_call_can_have_are_refused(values):
    """Nothing is written that would not be read again as the same."""
    with pytest.raises(InvalidRequestError):
        call_content(values)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "x",
            "[]",
            "5",
            "null",
            '"a"',
            '{"a": NaN}',
            '{"a": 1e999}',
            '{"a": "\\ud800"}',
            '{"a-b": 1}',
            '{"a": 1}}',
        ),
        *(f'{{"a": {NESTED}}}', f'{{"a": {"9" * 5000}}}', f'{{"a": "{"x" * 70_000}"}}'),
    ],
    ids=lambda text: text[:20],
)
def test_json_that_is_no_set_of_arguments_is_refused(text):
    """Whatever a client sends as arguments is a set of them or a clear error that does not quote it."""
    with pytest.raises(InvalidRequestError) as caught:
        arguments_of_json(text)
    assert len(str(caught.value)) < 200


def test_tools_stand_in_the_system_message_as_the_model_was_taught():
    """The sentence, a newline, and the schemas with four blanks; a text of the caller's own comes first."""
    tools = [{"name": "get_x", "description": "返回", "parameters": {}}]
    written = TOOLS_SENTENCE + "\n" + json.dumps(tools, indent=4, ensure_ascii=False)
    assert system_with_tools("", tools) == written
    assert system_with_tools("Be kind.", tools) == "Be kind.\n" + written


def test_a_call_in_a_prompt_is_the_templates_own(tokenizer):
    """Name as metadata and fenced call as content are what ``chat`` encodes of its own history."""
    item = {"role": "assistant", "metadata": "get_x", "content": "```python\ntool_call(city='北京')\n```"}
    ids = message_ids(tokenizer, "assistant", call_content({"city": "北京"}), metadata="get_x")
    assert chat_input_ids(tokenizer, "Hi", [item])[2 : 2 + len(ids)] == ids
