"""Ids to numbered events."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol import FinishReason, Usage
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turns.events import EventKind, TurnEvent, TurnResult
from services.turns.projection import Projection
from tests.support.turn_kit import TINY, deltas

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
USAGE = Usage(prompt_tokens=1, cached_tokens=0, output_tokens=1)

# Whole texts, and ids as a badly trained model samples them: bytes of broken characters, specials, ids without text.
text_ids = st.text(max_size=30).map(TOKENIZER.encode_text)
odd_ids = st.lists(
    st.one_of(
        st.integers(3, 258),
        st.integers(0, TOKENIZER.vocab_size + 3),
        st.sampled_from([3 + byte for byte in "é你😀 \n".encode()]),
    ),
    max_size=12,
)
answers = st.lists(st.one_of(text_ids, odd_ids), max_size=4).map(lambda parts: [i for part in parts for i in part])


@st.composite
def answers_with_stops(draw) -> tuple[list[int], list[str]]:
    """An answer, and stop strings of which some occur in it."""
    ids = draw(answers)
    text = TOKENIZER.decode(ids)
    stops = draw(st.lists(st.text(min_size=1, max_size=4), max_size=2))
    for _ in range(draw(st.integers(0, 2)) if text else 0):
        start = draw(st.integers(0, len(text) - 1))
        stops.append(text[start : start + draw(st.integers(1, 6))])
    return ids, stops


def project(groups: list[list[int]], stops: list[str]) -> tuple[Projection, list[TurnEvent]]:
    projection = Projection(TOKENIZER, stops)
    events = projection.open()
    for ids in groups:
        events += projection.push(ids)
    events += projection.close()
    result = TurnResult(FinishReason.STOP, projection.text, tuple(projection.answer_ids()), USAGE)
    return projection, [*events, projection.end(EventKind.COMPLETED, result)]


def groups_of(ids: list[int], sizes: list[int]) -> list[list[int]]:
    groups, start = [], 0
    for size in sizes:
        groups.append(ids[start : start + size])
        start += size
    return [*groups, ids[start:]]


@given(answers_with_stops())
def test_deltas_joined_are_the_text_and_what_its_ids_decode_to(case):
    """The client's text, the last event's text and the kept ids say the same."""
    ids, stops = case
    _, events = project([ids], stops)
    result = events[-1].result
    assert result is not None
    assert deltas(events) == result.text == TOKENIZER.decode(result.ids).lstrip()


@given(answers_with_stops())
def test_the_text_is_the_decoded_ids_up_to_the_first_stop_string(case):
    """Nothing from a stop string on is ever seen, and nothing before it is missing."""
    ids, stops = case
    projection, _ = project([ids], stops)
    whole, _ = project([ids], [])
    text = whole.text
    assert not any(stop in projection.text for stop in stops)
    assert text.startswith(projection.text)
    if projection.is_stopped:
        assert any(text.startswith(stop, len(projection.text)) for stop in stops)
    else:
        assert projection.text == text


@given(answers_with_stops(), st.lists(st.integers(0, 5), max_size=10))
def test_events_do_not_depend_on_how_ids_are_grouped(case, sizes):
    """Kinds, numbers, checksums and texts are the same for one id at a time, all at once, or a journal and a rest."""
    ids, stops = case
    _, expected = project([[token_id] for token_id in ids], stops)
    assert expected == project([ids], stops)[1] == project(groups_of(ids, sizes), stops)[1]


@given(answers_with_stops())
def test_numbers_count_up_and_checksums_are_of_the_ids_so_far(case):
    """``seq`` has no gaps; the last ``crc`` is that of all ids taken."""
    ids, stops = case
    projection, events = project([ids], stops)
    taken = projection.ids
    assert [event.seq for event in events] == list(range(len(events)))
    assert taken == ids[: len(taken)]
    assert events[-1].crc == zlib.crc32(struct.pack(f"<{len(taken)}I", *taken))


@given(answers)
def test_one_delta_for_each_id_that_completes_text(ids):
    """Without stop strings there are as many deltas as ids that made the visible text longer."""
    _, events = project([ids], [])
    longer, before = 0, ""
    for count in range(1, len(ids) + 1):
        projection = Projection(TOKENIZER)
        projection.push(ids[:count])
        longer += projection.text != before
        before = projection.text
    assert longer == sum(event.kind is EventKind.TEXT_DELTA for event in events)


def test_events_come_in_openais_order():
    """Four events open, deltas follow, three events close, one ends."""
    _, events = project([TOKENIZER.encode_text("\n Hello")], [])
    kinds = [event.kind for event in events]
    assert kinds[:4] == [EventKind.CREATED, EventKind.IN_PROGRESS, EventKind.ITEM_ADDED, EventKind.PART_ADDED]
    assert set(kinds[4:-4]) == {EventKind.TEXT_DELTA}
    assert kinds[-4:] == [EventKind.TEXT_DONE, EventKind.PART_DONE, EventKind.ITEM_DONE, EventKind.COMPLETED]
    assert [event.text for event in events[-4:]] == ["Hello", "Hello", "Hello", ""]


def test_the_header_the_model_writes_is_not_shown_but_kept():
    """The newline before an answer is no part of its text, yet stays in its ids: its KV is in the cache."""
    ids = TOKENIZER.encode_text("\n Hello")
    projection, events = project([ids], [])
    assert deltas(events) == "Hello"
    assert projection.answer_ids() == ids


def test_a_stop_string_that_begins_and_ends_inside_ids_is_cut_out_exactly():
    """What is left of the first id it touches is encoded again."""
    ids = [*TOKENIZER.encode_text("\nHello th"), *TOKENIZER.encode_text("\nere")[2:]]
    projection, events = project([ids], ["lo t"])
    assert deltas(events) == "Hel"
    assert projection.is_stopped
    assert TOKENIZER.decode(projection.answer_ids()).lstrip() == "Hel"
    assert all(token_id < TOKENIZER.num_pieces for token_id in projection.answer_ids())


def test_ids_after_a_stop_string_are_not_taken():
    """The rest of a frame, and further frames, change nothing."""
    ids = TOKENIZER.encode_text("\n one. two")
    stopped, events = project([ids, ids], ["."])
    assert deltas(events) == "one"
    assert len(stopped.ids) < len(ids)


def test_bytes_of_an_unfinished_character_are_dropped():
    """An answer cut off inside a character keeps neither its bytes nor a replacement character."""
    ids = [*TOKENIZER.encode_text("\n ok"), 3 + 0xF0, 3 + 0x9F, 3 + 0x98]
    projection, events = project([ids], [])
    assert deltas(events) == "ok"
    assert projection.answer_ids() == ids[:-3]


def test_text_held_back_for_a_stop_string_goes_out_at_the_end():
    """The beginning of a stop string that never came is text like any other."""
    _, events = project([TOKENIZER.encode_text("\n well, en")], ["end"])
    assert deltas(events) == "well, en"


def test_an_answer_of_white_space_alone_has_no_text():
    """Nothing visible came, so nothing is shown; the ids stay."""
    ids = TOKENIZER.encode_text("\n \n")
    projection, events = project([ids], [])
    assert not deltas(events)
    assert projection.answer_ids() == ids


@pytest.mark.parametrize(
    ("ids", "stop", "left"),
    [
        ([TOKENIZER.gmask_id], "MASK", "[g"),  # a sampled special shows its text
        ([3 + 0xE4, *TOKENIZER.encode_text("Hi")], "Hi", "\ufffd "),  # a broken byte comes out with what follows it
        ([*(3 + byte for byte in "\u2581".encode()), TOKENIZER.sop_id], "op", "\u2581s"),  # no piece for this blank
    ],
)
def test_what_is_left_of_an_id_in_front_of_a_stop_string_keeps_its_text(ids, stop, left):
    """Pieces of special texts and broken bytes come back as they were, behind the ids that are kept."""
    kept = TOKENIZER.encode_text("\n Hello")
    projection, events = project([[*kept, *ids]], [stop])
    assert deltas(events) == "Hello" + left
    assert TOKENIZER.decode(projection.answer_ids()).lstrip() == "Hello" + left
    assert projection.answer_ids()[: len(kept)] == kept
