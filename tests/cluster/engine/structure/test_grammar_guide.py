"""A guide lets through what its structure says, and nothing that a caller could not read."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.guide import replay
from cluster.engine.structure.guide import GrammarGuide
from cluster.errors import InvalidRequestError
from cluster.protocol import StructureKind
from tests.support.structures import TOKENIZER, VOCABULARY, allowed, guide, ids_of, shown

ANYTHING = ".*"
STOPS = set(TOKENIZER.stop_ids)


def walk(follower: GrammarGuide, length: int, seed: int) -> list[int]:
    """Ids drawn at random from what is allowed; ends early where nothing but a stop is."""
    ids: list[int] = []
    draw = random.Random(seed)
    while len(ids) < length and (choice := sorted(allowed(follower) - STOPS)):
        ids.append(draw.choice(choice))
        assert follower.accept(ids[-1])
    return ids


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), text=st.sampled_from([ANYTHING, r"[^a-z]*", "(中|😀|é)*"]))
def test_shown_text_is_what_was_accepted(seed: int, text: str) -> None:
    """Header and dummy blank aside, the detokenizer shows the very bytes that the grammar saw."""
    ids = walk(guide(StructureKind.REGEX, text), 40, seed)
    written = b"".join(VOCABULARY.pieces[token_id] for token_id in ids)
    assert shown(ids).encode() == written.decode(errors="ignore").lstrip().encode() or "\ufffd" in shown(ids)[-3:]
    assert "\ufffd" not in shown(ids)[:-3]


def test_text_of_any_script_is_followed() -> None:
    """A JSON document with escapes, Chinese and emoji, as the tokenizer writes it."""
    document = '{"name": "中文 😀", "note": "a\\n\\"b\\" \\u00e9", "n": [1, -2.5e3, null, true]}'
    follower = guide(StructureKind.JSON_OBJECT)
    replay(follower, ids_of(document))
    assert follower.is_ended
    assert allowed(follower) == STOPS
    assert shown(ids_of(document)) == document


def test_an_answer_opens_with_the_header_line() -> None:
    """The newline comes first, behind the dummy blank that belongs to it, so no answer can become a tool call."""
    first = {VOCABULARY.pieces[token_id] for token_id in allowed(guide(StructureKind.REGEX, "get_weather\n.*"))}
    assert first == {b" ", b"\n"}


def test_specials_named_by_a_grammar_stay_out() -> None:
    """An id that writes nothing is never allowed, even where a grammar asks for it by number."""
    user = TOKENIZER.role_id("user")
    follower = guide(StructureKind.GRAMMAR, f'root ::= Token({user}) "a" | ExcludeToken({user}) "c"')
    replay(follower, TOKENIZER.encode_text("\n"))
    assert user not in allowed(follower)
    assert not follower.accept(user)
    assert all(VOCABULARY.pieces[token_id] for token_id in allowed(follower))


@pytest.mark.parametrize("token_id", [-1, 0, 2, 829, 831, 832, 10**9])
def test_ids_that_write_nothing_are_refused(token_id: int) -> None:
    """Unknown, end, padding rows and numbers that are no ids: refused, and the state is as before."""
    follower = guide(StructureKind.REGEX, ANYTHING)
    before = allowed(follower)
    assert not follower.accept(token_id)
    assert allowed(follower) == before
    assert token_id not in before


def test_half_a_surrogate_pair_is_not_allowed() -> None:
    """U+D800 to U+DFFF are no characters of UTF-8; the byte ED may go on as a Hangul syllable only."""
    byte = VOCABULARY.byte_id
    follower = guide(StructureKind.REGEX, ANYTHING)
    replay(follower, [byte(0x0A), byte(0xED)])
    assert allowed(follower) == {byte(number) for number in range(0x80, 0xA0)}
    assert not follower.accept(byte(0xA0))
    assert follower.accept(byte(0x9F))
    assert byte(0xA0) in allowed(follower)


def test_stops_come_with_the_end_alone() -> None:
    """Before the structure is whole no stop id is allowed; where it may go on, both are."""
    follower = guide(StructureKind.REGEX, "ab*")
    replay(follower, TOKENIZER.encode_text("\n"))
    assert (follower.is_ended, allowed(follower) & STOPS) == (False, set())
    assert follower.accept(VOCABULARY.byte_id(ord("a")))
    assert (follower.is_ended, allowed(follower) & STOPS) == (True, STOPS)
    assert VOCABULARY.byte_id(ord("b")) in allowed(follower)


def test_without_stop_ids_nothing_is_allowed_at_the_end() -> None:
    """The engine ends such an answer by ``is_ended``."""
    follower = guide(StructureKind.REGEX, "a", stop_ids=())
    replay(follower, ids_of("a"))
    assert (follower.is_ended, allowed(follower)) == (True, set())


def test_a_stop_id_that_writes_text_is_no_part_of_a_structure() -> None:
    """Otherwise it would end the answer in its middle."""
    stop = VOCABULARY.byte_id(ord("a"))
    follower = guide(StructureKind.REGEX, "[ab]b", stop_ids=(stop,))
    replay(follower, TOKENIZER.encode_text("\n"))
    assert stop not in allowed(follower)
    replay(follower, [VOCABULARY.byte_id(ord("b"))] * 2)
    assert allowed(follower) == {stop}


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), length=st.integers(0, 40))
def test_a_replayed_guide_stands_where_the_first_one_stood(seed: int, length: int) -> None:
    """The masks are equal at any place of an answer."""
    first, second = guide(StructureKind.JSON_OBJECT), guide(StructureKind.JSON_OBJECT)
    replay(second, walk(first, length, seed))
    assert allowed(second) == allowed(first)
    assert second.is_ended == first.is_ended


def test_ids_of_another_structure_cannot_be_replayed() -> None:
    """The typed error of an attempt that goes on with somebody else's ids."""
    with pytest.raises(InvalidRequestError):
        replay(guide(StructureKind.JSON_OBJECT), ids_of("[1]"))


def test_an_answer_that_costs_too_much_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its time spent it gets an empty mask, for good, and does not count as whole."""
    monkeypatch.setattr("cluster.engine.structure.guide.GRACE_S", 0.0)
    monkeypatch.setattr("cluster.engine.structure.guide.PER_ID_S", 0.0)
    follower = guide(StructureKind.REGEX, "a*")
    assert follower.accept(VOCABULARY.byte_id(0x0A))
    assert allowed(follower) == set()
    assert (follower.is_broken, follower.is_ended) == (True, False)
    assert not follower.accept(VOCABULARY.byte_id(ord("a")))
    assert allowed(follower) == set()
