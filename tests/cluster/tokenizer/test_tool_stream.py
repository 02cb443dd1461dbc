"""A call's name and arguments come as they are written, and joined they are the whole."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from cluster.tokenizer.tool_calls import call_content
from cluster.tokenizer.tool_stream import ToolCallStream

values = st.none() | st.integers(-999, 999) | st.text(max_size=6) | st.lists(st.text("a',)", max_size=3), max_size=3)
arguments = st.dictionaries(st.sampled_from(["a", "b", "city", "имя"]), values, max_size=4)


def told(pieces):
    stream = ToolCallStream()
    deltas = [delta for piece in pieces if (delta := stream.push(piece)) is not None]
    return stream, deltas


@given(arguments, st.integers(1, 9))
def test_joined_deltas_are_the_call(wanted, size):
    """In whatever pieces it comes: the name once and first, the arguments as one JSON object."""
    text = f" get_x\n {call_content(wanted)}"
    stream, deltas = told([text[place : place + size] for place in range(0, len(text), size)])
    assert [delta.name for delta in deltas if delta.name] == ["get_x"] == [deltas[0].name]
    assert json.loads("".join(delta.arguments for delta in deltas)) == wanted
    assert stream.is_whole


def test_an_argument_is_told_once_nothing_can_change_it():
    """A number may go on, a text may have another behind it; the comma settles both."""
    _, deltas = told(["f\n```python\n", "tool_call(a=1", "2", ", b='x' ", "'y'", ")", "\n```"])
    assert [(delta.name, delta.arguments) for delta in deltas] == [
        ("f", ""),
        ("", '{"a": 12'),
        ("", ', "b": "xy"}'),
    ]


def test_prose_and_what_is_no_call_have_no_arguments():
    """Nothing is told of prose; of a turn without a call only its name."""
    assert told(["\n Hello", "\nyou"])[1] == []
    assert [delta.arguments for delta in told(["f\n", "just text", "(a=1)"])[1]] == [""]
    assert not told(["f\n```python\nopen('x')\n```"])[0].is_whole
