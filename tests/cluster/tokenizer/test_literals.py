"""Calls with literal arguments, against Python's own reading of them."""

from __future__ import annotations

import ast
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.tokenizer.literals import MAX_CHARS, MAX_DEPTH, MAX_NUMBER_CHARS, parse_call

# What hostile and clumsy calls are made of; joined at random they are mostly refused and now and then a call.
_FRAGMENTS = [
    *("a=", "b =", "a", "x", "f", "f(", "=", ",", ", ", ":", "(", ")", "[", "]", "{", "}", "**", "*", "-", "+", "."),
    *("1", "-1", "0x1F", "1_0", "1__0", "007", "2.5", ".5", "1.", "1e3", "1e999", "2j", "True", "None", "lambda: 1"),
    *("'x'", '"y"', "'''z\n'''", "r'\\d'", "b'x'", "f'{a}'", "u'é'", "'\\x41'", "'\\d'", "'\\", "'", "#c\n", " ", "\n"),
    *("__import__('os')", "a.b", "a if b else c", "[x for x in y]", "\\", "\0", "é", "你", "\xa0", ";", "not ", "..."),
]
calls = st.lists(st.sampled_from(_FRAGMENTS), max_size=8).map(lambda parts: f"f({''.join(parts)})")


def as_python(text: str) -> dict[str, object]:
    """The arguments as the language itself reads them, tuples and sets as lists."""
    node = ast.parse(f"({text}\n)", mode="eval").body
    assert isinstance(node, ast.Call)
    return {keyword.arg or "": as_json(ast.literal_eval(keyword.value)) for keyword in node.keywords}


def as_json(value: object) -> object:
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple | set) else value


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # Python's, about the same text
@settings(max_examples=500)
@given(calls)
@example("f(a=('x' 'y', (1), (2,)), b={'k': [1, 2.5, -3]},)")
@example("f(a='\\x41\\u0042\\103\\n\\d\\\n', b=r'\\d\\'', c='''it's''')")
@example("f( # why\n a = 1 ,\n)")
@example("f(a='''')")
@example('f(a="""")')
@example("f(a='' 'x')")
def test_what_is_read_is_what_python_reads(text):
    """Either it is refused, or the values are Python's own."""
    try:
        arguments = parse_call(text, "f")
    except ValueError:
        return
    assert arguments == as_python(text)


literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**90), 10**90)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["a", "_b", "город", "from", "None"]), literals, max_size=3))
def test_whatever_python_writes_is_read(values):
    """``repr`` of JSON's values comes back; names may be keywords, as a tool's parameters are."""
    written = ", ".join(f"{name}={value!r}" for name, value in values.items())
    assert parse_call(f"f({written})", "f") == values


def test_jsons_words_are_read_too():
    """A model that saw JSON schemas writes them."""
    assert parse_call("f(a=true, b=false, c=null)", "f") == {"a": True, "b": False, "c": None}


@pytest.mark.parametrize(
    "text",
    ["""'''it's'''""", """'''two '' of them\n'''""", '"""a "" b"""', "r'a\\'b'", "u'é' R\"\\d\"", "'a\\\nb'", "''"],
)
def test_texts_are_read_in_all_the_ways_they_can_be_quoted(text):
    """Single and triple quotes, raw ones, several side by side, over line ends."""
    assert parse_call(f"f(a={text})", "f") == as_python(f"f(a={text})")


def test_tuples_and_sets_keep_the_order_in_which_they_were_written():
    """A set's own order differs from process to process; the events of an answer must not."""
    assert parse_call("f(a={'z', 'b', 'a'}, b=(3, 1), c=())", "f") == {"a": ["z", "b", "a"], "b": [3, 1], "c": []}


@pytest.mark.parametrize(
    "value",
    [
        "1e999",
        "-1e999",
        "'\\ud800'",
        "'\\U00110000'",
        "'\\UFFFFFFFF'",
        "'\\x4'",
        "'\\N{DIGIT ONE}'",
        "{1: 'x'}",
        "{'a': 1, 2}",
        "--1",
        "-True",
        "1 2",
        "'a' 1",
        "[1,,2]",
        "(,)",
        "{,}",
        "'''a",
        "'a\nb'",
        "x",
        "True()",
        "",
    ],
)
def test_what_is_no_data_is_refused(value):
    """Numbers JSON has no place for, half characters, names, operators, and what is not Python either."""
    with pytest.raises(ValueError, match="At character"):
        parse_call(f"f(a={value})", "f")


def test_bounds_are_exact():
    """Depth, length and digits are allowed up to the bound and refused above it."""
    for depth, is_fine in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False)):
        assert _is_read(f"f(a={'[' * depth}{']' * depth})") is is_fine
    for digits, is_fine in ((MAX_NUMBER_CHARS, True), (MAX_NUMBER_CHARS + 1, False)):
        assert _is_read(f"f(a={'9' * digits})") is is_fine
    for length, is_fine in ((MAX_CHARS, True), (MAX_CHARS + 1, False)):
        assert _is_read(f"f(a='{'x' * (length - len('f(a=)') - 2)}')") is is_fine


@pytest.mark.parametrize("piece", ["[", "{", "(", "-", "'", "'''x", "\\", "a=", "#", "\n", "{'a':", "'x' ", "1,"])
def test_a_long_hostile_text_needs_no_deep_stack(piece):
    """A thread with little stack reads the longest text there may be."""
    text = f"f(a={piece * MAX_CHARS}"[:MAX_CHARS]
    outcomes: list[bool] = []
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=lambda: outcomes.append(_is_read(text)))
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert outcomes == [False]


def _is_read(text: str) -> bool:
    try:
        parse_call(text, "f")
    except ValueError:
        return False
    return True
