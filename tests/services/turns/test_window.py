"""Which messages stay when a conversation no longer fits: whole turns, in strides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.turns import window

SPACE = 800
LONGEST_TURN = SPACE // 8
ROLES = ("system", "user", "assistant", "observation")
messages = st.lists(st.tuples(st.sampled_from(ROLES), st.integers(1, 300)), min_size=1, max_size=60)
small_turns = st.lists(st.integers(4, LONGEST_TURN), min_size=1, max_size=80)  # tokens of question and answer together


def first_of(told, *, num_new=1, space=SPACE):
    return window.first([role for role, _ in told], [size for _, size in told], num_new=num_new, space=space)


def size_of(told):
    return sum(size for _, size in told)


def may_begin(told, place):
    return place == 0 or (told[place][0] in ("user", "system") and told[place - 1][0] == "assistant")


def questions_and_answers(turns):
    """Each turn's question and answer, without the last answer."""
    told = [part for size in turns for part in (("user", size // 2), ("assistant", size - size // 2))]
    return told[:-1]


@given(messages, st.integers(-50, 2000), st.data())
def test_what_stays_fits_or_is_the_newest_turn_alone(told, space, data):
    """Nothing but a newest turn that is too long by itself may exceed the space."""
    place = first_of(told, num_new=data.draw(st.integers(0, len(told))), space=space)
    later = [i for i in range(place + 1, len(told)) if may_begin(told, i)]
    assert size_of(told[place:]) <= space or not later


@given(messages, st.integers(-50, 2000), st.data())
def test_only_whole_turns_are_dropped_and_the_new_input_last(told, space, data):
    """The cut is in front of a question behind an answer, and of the new messages where they fit alone."""
    num_new = data.draw(st.integers(0, len(told)))
    place = first_of(told, num_new=num_new, space=space)
    assert may_begin(told, place)
    kept = max(i for i in range(len(told) + 1 - max(num_new, 1)) if may_begin(told, i))
    assert place <= kept or size_of(told[kept:]) > space


@given(messages)
def test_what_fits_stays_whole(told):
    """No cut without need."""
    assert first_of(told, space=size_of(told)) == 0


@given(messages, st.integers(50, 2000))
def test_a_history_that_grows_is_never_cut_further_back(told, space):
    """What a turn was not shown, no later one is, although each is given the whole history."""
    places = [first_of(told[:end], space=space) for end in range(1, len(told) + 1)]
    assert places == sorted(places)


@given(small_turns)
def test_a_history_that_always_comes_whole_is_cut_once_a_stride(turns):
    """Between two cuts the window grows at its end only, by half the space."""
    told = questions_and_answers(turns)
    places = {first_of(told[:end]) for end in range(1, len(told) + 1, 2)}
    assert len(places) <= 1 + size_of(told) / (SPACE / 2)


@given(small_turns)
def test_a_conversation_that_goes_on_from_its_last_window_is_cut_once_a_stride(turns):
    """The slack that a cut leaves is a stride but for one turn."""
    told, begin, cuts = questions_and_answers(turns), 0, 0
    for end in range(1, len(told) + 1, 2):
        place = begin + first_of(told[begin:end])
        cuts += place > begin
        begin = place
    assert cuts <= 1 + size_of(told) / (SPACE / 2 - LONGEST_TURN)


@given(small_turns)
def test_a_cut_leaves_enough_to_remember(turns):
    """Of turns that are not long, at least a third of the space is always in use behind a cut."""
    told = questions_and_answers(turns)
    place = first_of(told)
    assert place == 0 or size_of(told[place:]) >= SPACE / 3


def test_the_turn_before_stays_where_it_fits():
    """A stride would drop it, but then nothing would be remembered."""
    told = [("user", 50), ("assistant", 50), ("user", 100), ("assistant", 600), ("user", 20)]
    assert first_of(told) == 2


@pytest.mark.parametrize(
    "middle",
    [
        [("user", 500), ("user", 500)],
        [("user", 500), ("assistant", 100), ("observation", 500)],
        [("user", 500), ("assistant", 10), ("assistant", 90), ("observation", 500)],
        [("user", 500), ("system", 500)],
    ],
)
def test_what_belongs_together_stays_together(middle):
    """Questions in a row are one turn, and so are a call and its result, however long."""
    told = [("user", 300), ("assistant", 300), *middle]
    assert first_of(told) == 2


def test_a_system_message_goes_with_the_question_behind_it():
    """What was said between two turns is dropped with the later one."""
    told = [("user", 400), ("assistant", 300), ("system", 100), ("user", 100), ("assistant", 5), ("user", 5)]
    assert first_of(told) == 2


def test_new_input_that_goes_on_with_a_turn_keeps_it():
    """A result is never parted from the call in the history."""
    told = [("user", 10), ("assistant", 10), ("user", 900), ("assistant", 10), ("observation", 10)]
    assert first_of(told, num_new=1) == 2


@pytest.mark.parametrize(("roles", "expected"), [("", 0), ("u", 0), ("ssus", 2), ("s" * 25, window.MAX_LEAD)])
def test_leading_system_messages_are_those_in_front_of_anything_else(roles, expected):
    """At most twenty, as many as a conversation can be made with."""
    names = {"s": "system", "u": "user"}
    assert window.lead([names[role] for role in roles]) == expected


@pytest.mark.parametrize(("max_tokens", "expected"), [(None, 6104), (100, 8052), (8192, -40)])
def test_the_answer_gets_what_was_asked_for_or_a_quarter_of_the_context(max_tokens, expected):
    """The rest, without what is in every prompt, is the window's."""
    assert window.space(8192, max_tokens, always=40) == expected
