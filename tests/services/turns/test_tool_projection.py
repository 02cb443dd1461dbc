"""Ids to numbered events where tools are offered: what is a call, and what is text."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.tool_calls import ToolCall, call_content, read_call
from services.turns.events import EventKind, TurnEvent
from services.turns.projection import Projection
from tests.support.turn_kit import TINY, deltas

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
ASSISTANT = TOKENIZER.role_id("assistant")
NEWLINE = 3 + ord("\n")
TOOLS = ("get", "get_weather")
CALL = ToolCall("get_weather", {"city": "北京"})
LETTERS = "\n ge_t`(a='x')<|\u2581"


def call_ids(call: ToolCall = CALL) -> list[int]:
    """A tool turn as the model samples it: the header, then the content, which has a blank of its own."""
    return [*TOKENIZER.encode_text(f"{call.name}\n"), *TOKENIZER.encode_text(call_content(call.arguments))]


texts = st.text(LETTERS, max_size=12).map(TOKENIZER.encode_text)
headers = st.sampled_from(["\n", " \n", "get\n", "get_weather\n", " get \n", "gets\n", "get it\n"]).map(
    TOKENIZER.encode_text
)
values = st.dictionaries(st.sampled_from("ab"), st.text(LETTERS, max_size=5) | st.integers(0, 9), max_size=2)
whole_calls = st.builds(ToolCall, st.sampled_from(TOOLS), values).map(call_ids)
cut_calls = st.tuples(whole_calls, st.integers(0, 20)).map(lambda case: case[0][: -case[1]])
odd_ids = st.lists(st.sampled_from([ASSISTANT, NEWLINE, 3 + 0xE5, 0, TOKENIZER.role_id("user")]), max_size=2)
answers = st.lists(texts | headers | whole_calls | cut_calls | odd_ids, max_size=4).map(
    lambda parts: list(chain.from_iterable(parts))
)
stops = st.lists(st.text("ge_t`(a\n", min_size=1, max_size=3), max_size=2)


def project(groups, stop=(), tools=TOOLS) -> tuple[Projection, list[TurnEvent]]:
    projection = Projection(TOKENIZER, stop, tools)
    events = projection.open()
    for ids in groups:
        events += projection.push(ids)
    return projection, events + projection.close()


def called(events: list[TurnEvent]) -> list[ToolCall | None]:
    return [event.call for event in events if event.kind is EventKind.TOOL_CALL]


@settings(max_examples=300)
@given(answers, stops, st.integers(1, 7))
def test_events_do_not_depend_on_how_ids_are_grouped(ids, stop, size):
    """Calls are found wherever frames cut them, with the same numbers, checksums and texts."""
    _, expected = project([[token_id] for token_id in ids], stop)
    assert (
        expected == project([ids], stop)[1] == project([ids[i : i + size] for i in range(0, len(ids), size)], stop)[1]
    )


@settings(max_examples=300)
@given(answers, stops)
def test_an_answer_that_is_no_call_is_the_text_it_would_be_without_tools(ids, stop):
    """Nothing is lost or added because tools were offered."""
    projection, events = project([ids], stop)
    if projection.call is None and projection.call_error is None:
        assert deltas(events) == deltas(project([ids], stop, ())[1])
        assert not called(events)


@settings(max_examples=300)
@given(answers, stops)
def test_an_answers_text_and_its_call_are_all_it_says(ids, stop):
    """The call is what stands behind the text; nothing of it is in the text."""
    projection, events = project([ids], stop)
    if projection.call is None or projection.is_stopped:
        return
    kept = projection.answer_ids()
    whole = TOKENIZER.decode(kept).lstrip()
    text, _, turn = whole.rpartition("<|assistant|>") if ASSISTANT in ids else ("", "", whole)
    assert deltas(events) == text
    assert called(events) == [read_call(turn)] == [projection.call]
    assert kept == ids[: len(kept)]
    assert len(ids) - len(kept) <= 3  # the bytes of an unfinished character


def test_a_character_that_a_call_cuts_off_is_text():
    """Its bytes are shown as broken; the marker behind them is not."""
    ids = [3 + 0xE5, ASSISTANT, *call_ids()]
    projection, events = project([[token_id] for token_id in ids])
    assert deltas(events) == "\ufffd"
    assert called(events) == [CALL]
    assert projection.answer_ids() == ids


@settings(max_examples=300)
@given(answers, stops)
def test_what_cannot_be_read_as_a_call_is_text_as_a_whole(ids, stop):
    """Stop strings neither end nor cut it; its ids say the same."""
    projection, events = project([ids], stop)
    if projection.call_error is None:
        return
    assert projection.call_error.text in deltas(events) or projection.call_error.text.lstrip() == deltas(events)
    assert deltas(events) == TOKENIZER.decode(projection.answer_ids()).lstrip()


@given(st.text(max_size=30).map(TOKENIZER.encode_text), stops)
def test_prose_comes_as_fast_with_tools_as_without(rest, stop):
    """Behind the header's newline, every event of every id is the same."""
    ids = [*TOKENIZER.encode_text("\n"), *rest]
    assert project([ids], stop)[1] == project([ids], stop, ())[1]


def test_a_call_is_one_event_behind_the_text():
    """No text comes; the call is there before the last event."""
    _, events = project([call_ids()])
    assert not deltas(events)
    assert [event.kind for event in events[4:]] == [
        EventKind.TEXT_DONE,
        EventKind.PART_DONE,
        EventKind.ITEM_DONE,
        EventKind.TOOL_CALL,
    ]
    assert called(events) == [CALL]


def test_what_is_said_before_a_call_is_text():
    """The model goes on behind an ``<|assistant|>`` of its own; that id is seen by nobody."""
    ids = [*TOKENIZER.encode_text("\nI will look."), ASSISTANT, *call_ids()]
    projection, events = project([ids], ["look. "])
    assert deltas(events) == "I will look."
    assert called(events) == [CALL]
    assert projection.answer_ids() == ids


def test_the_role_as_text_begins_no_call():
    """Only the id does: a model that was made to repeat the characters has said them, no more."""
    text = f"\nfoo<|assistant|>{CALL.name}\n{call_content(CALL.arguments)}"
    _, events = project([TOKENIZER.encode_text(text)])
    assert not called(events)
    assert deltas(events) == text.lstrip()


@pytest.mark.parametrize(
    "text", ["get_weathers\n```", "Get\n```", "rm -rf\n```python\ntool_call()\n```", "Sure!\n get\n"]
)
def test_a_header_that_names_no_tool_is_prose_at_once(text):
    """It is let out as soon as it can no longer become a name."""
    projection, events = project([TOKENIZER.encode_text(text)], ["```"])
    assert deltas(events) == text.partition("```")[0]
    assert not called(events)
    assert projection.is_stopped is ("```" in text)


def test_a_name_that_begins_another_is_decided_by_the_newline():
    """``get`` is a tool although ``get_weather`` might have come."""
    _, events = project([call_ids(ToolCall("get", {}))])
    assert called(events) == [ToolCall("get", {})]


@pytest.mark.parametrize("text", ["get", "get_weather", " ", "get_weath"])
def test_an_answer_that_ends_in_its_header_is_prose(text):
    """Without a newline there is no header; what was held back goes out."""
    projection, events = project([TOKENIZER.encode_text(text)])
    assert deltas(events) == text.strip()
    assert projection.call_error is None


def test_endless_blanks_are_not_held_back_for_ever():
    """A header is short."""
    _, events = project([TOKENIZER.encode_text(" " * 400 + "get\n" + call_content({}))])
    assert not called(events)


def test_stop_strings_do_not_look_into_a_call():
    """Arguments may hold them."""
    projection, events = project([call_ids()], ["city", "`", "北"])
    assert called(events) == [CALL]
    assert not projection.is_stopped


def test_a_call_that_is_cut_off_is_text_with_all_its_ids():
    """The client sees how far it came."""
    ids = call_ids()[:-3]
    projection, events = project([ids])
    assert not called(events)
    assert deltas(events) == TOKENIZER.decode(ids)
    assert projection.answer_ids() == ids


def test_without_tools_a_call_is_text():
    """As it was before there were tools."""
    _, events = project([call_ids()], tools=())
    assert deltas(events) == TOKENIZER.decode(call_ids())
    assert not called(events)
