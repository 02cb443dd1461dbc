"""Ids for a piece of text that goes on in the middle of an answer.

Plain encoding puts a dummy prefix in front, which in the middle of an answer reads as a blank that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

_FIRST_BYTE_ID = 3  # byte b is id b + 3 (parity specification, section 5)
_NEWLINE_ID = _FIRST_BYTE_ID + ord("\n")


def encode_rest(tokenizer: ChatGLM3Tokenizer, kept: Sequence[int], text: str, rest: str) -> list[int]:
    """Ids that, behind ``kept``, make the whole decode to ``text``, leading white space aside.

    ``rest`` is the end of ``text`` that ``kept`` lacks. The tokenizer's own pieces where they give the text exactly;
    else its bytes, which always do.
    """
    for ids in _candidates(tokenizer, rest):
        if tokenizer.decode([*kept, *ids]).lstrip() == text:
            return ids
    raise AssertionError("bytes decode to themselves")


def inner_ids(tokenizer: ChatGLM3Tokenizer, text: str) -> list[int]:
    """The tokenizer's own ids of a text that stands in the middle of another: nothing is put in front of it."""
    # A newline is a byte piece, which nothing merges with: what stands behind it has no dummy prefix.
    ids = tokenizer.encode_text("\n" + text)
    return ids[ids.index(_NEWLINE_ID) + 1 :]


def _candidates(tokenizer: ChatGLM3Tokenizer, rest: str) -> Iterator[list[int]]:
    if not rest:
        yield []
        return
    yield inner_ids(tokenizer, rest)
    yield [byte + _FIRST_BYTE_ID for byte in rest.encode()]
