"""Stop strings over text in pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.turns.stops import StopMatcher

# Few letters, so that overlaps, repeats and near misses are common.
texts = st.text("abc", max_size=30)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def cut(text: str, stops: list[str]) -> str:
    """The rule, said the slow way: the text in front of the first stop string to be complete."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(edges)]


@given(texts, stop_lists, st.lists(st.integers(0, 1000), max_size=8))
def test_what_goes_out_is_the_text_before_the_first_stop_string(text, stops, cuts):
    """However the text is cut into pieces, the same part of it goes out."""
    matcher = StopMatcher(stops)
    out = ""
    for piece in pieces_of(text, cuts):
        if not matcher.is_matched:
            out += matcher.push(piece)
        assert cut(text, stops).startswith(out)
    assert cut(text, stops) == out + matcher.flush()


@given(texts, stop_lists)
def test_no_more_is_held_back_than_may_become_a_stop_string(text, stops):
    """What is held is the longest end of the text that begins a stop string."""
    matcher = StopMatcher(stops)
    out = matcher.push(text)
    if not matcher.is_matched:
        assert text == out + matcher.held
        begun = [stop[:n] for stop in stops for n in range(1, len(stop))]
        assert max((len(start) for start in begun if text.endswith(start)), default=0) == len(matcher.held)


def test_an_empty_stop_string_stops_nothing():
    """A caller's empty string is no stop string."""
    assert StopMatcher([""]).push("text") == "text"
