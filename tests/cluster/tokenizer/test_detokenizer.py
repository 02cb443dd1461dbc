"""An answer decoded id by id is the answer decoded at once, and text that is out never changes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.tokenizer.detokenizer import IncrementalDetokenizer
from tests.cluster.tokenizer.recorded import turns

RECORDED = [entry for entry in turns("stream_fresh", "stream_cached") if "error" not in entry[2]]

byte_ids = st.integers(3, 258) | st.integers(0x80 + 3, 0xF7 + 3)  # any byte, and more of those that need company
ids = st.lists(
    byte_ids | st.integers(-2, 70_000) | st.integers(0, 840) | st.sampled_from([585, 13, 2, 827]), max_size=24
)
characters = st.characters(min_codepoint=0x80, exclude_categories=["Cs"])


def _steps(tokenizer, token_ids):
    """Yield after each id: how many ids went in, how many are pending, and the text so far."""
    detokenizer, text = IncrementalDetokenizer(tokenizer), ""
    for count, token_id in enumerate(token_ids, 1):
        text += detokenizer.push(token_id)
        yield count, detokenizer.pending, text


@given(ids)
@example([585, 585, 13])  # one leading blank is dropped, not two
@example([13, 585])  # behind a byte a blank is a blank
@example([2, 585, 261])  # an id without text is not a beginning
@example([240, 163])  # a surrogate in UTF-8 that is cut before it shows
@example([243, 162, 2, 155, 131])  # an id without text ends a character all the same
def test_joined_pieces_equal_the_whole_decode(tokenizer, token_ids):
    """All pushes and the flush together are what decoding every id at once gives."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(token_ids)
    assert detokenizer.pending == 0


@given(ids)
def test_text_that_is_out_belongs_to_the_ids_that_are_not_pending(tokenizer, token_ids):
    """At every step the text so far is the decode of all ids but the pending ones, of which there are at most three."""
    for count, pending, text in _steps(tokenizer, token_ids):
        assert 0 <= pending <= 3
        assert text == tokenizer.decode(token_ids[: count - pending])


@given(st.text(characters, min_size=1, max_size=6))
def test_character_comes_out_with_its_last_byte(tokenizer, text):
    """Bytes of a character are held back until it is whole, so no replacement character is ever seen."""
    token_ids = [byte + 3 for byte in text.encode()]
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [piece for piece in map(detokenizer.push, token_ids) if piece] == list(text)


def test_cut_character_is_one_replacement_per_byte(tokenizer):
    """An answer that ends inside a character ends with one U+FFFD per byte, once."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.push(token_id) for token_id in (243, 162, 155)] == ["", "", ""]
    assert detokenizer.pending == 3
    assert detokenizer.flush() == "\ufffd" * 3
    assert (detokenizer.pending, detokenizer.flush()) == (0, "")


@pytest.mark.parametrize(("name", "history", "turn"), RECORDED, ids=[name for name, _, _ in RECORDED])
def test_steps_show_the_recorded_text(tokenizer, name, history, turn):
    """The recorded stream lags by one id and skips unfinished characters; its texts are ours at those steps."""
    texts = {count + 1: text for count, pending, text in _steps(tokenizer, turn["generated_ids"]) if not pending}
    shown = {step: text for step, text in texts.items() if step <= turn["steps"] and text and text[-1] != "\ufffd"}
    assert {step: _items(text) for step, text in shown.items()} == {step: items for step, _, items in turn["yields"]}


def _items(text):
    """The history items of an answer's text: metadata is its first line, prose is stripped."""
    parts = [part.split("\n", 1) if "\n" in part else ["", part] for part in text.split("<|assistant|>")]
    return [
        {"role": "assistant", "metadata": head, "content": body if head.strip() else body.strip()}
        for head, body in parts
    ]


class CountingTokenizer:
    """Counts how often an id is looked up."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.lookups = 0

    def piece(self, token_id):
        self.lookups += 1
        return self._tokenizer.piece(token_id)

    def byte(self, token_id):
        return self._tokenizer.byte(token_id)


def test_long_answer_is_not_decoded_again(tokenizer):
    """Each id is looked up once, however long the answer has become, and there is no decoder to call."""
    counting = CountingTokenizer(tokenizer)
    detokenizer = IncrementalDetokenizer(counting)
    for _ in range(5000):
        detokenizer.push(261)
    assert counting.lookups == 5000
