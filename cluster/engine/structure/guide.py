"""The state of one answer in a compiled grammar, as the engine's ``Guide``.

xgrammar alone would let an answer hold three things that it may not: halves of surrogate pairs, which are no characters
in UTF-8, special ids that a caller's grammar names by number, and in JSON strings of bounded length control characters
(RFC 8259, section 7). All are masked here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import xgrammar
from numpy.typing import NDArray

from cluster.engine.guide import Guide
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.protocol import StructureKind

# Some grammars are so ambiguous that the state grows with every id. The whole batch waits for the slowest row, so an
# answer may take this much of the thread's own time: a thousand times what one usually does.
GRACE_S: Final = 0.1
PER_ID_S: Final = 0.002

_SURROGATE_LEAD: Final = 0xED  # U+D800 to U+DFFF would be ED A0..BF xx; ED is nothing but a first byte
_SURROGATE_NEXT: Final = range(0xA0, 0xC0)
_JSON: Final = frozenset({StructureKind.JSON_OBJECT, StructureKind.JSON_SCHEMA})
_NOT_IN_JSON: Final = frozenset(range(0x20)) - frozenset(b"\r\n")  # ends of lines are blanks, never inside its strings


@dataclass(frozen=True, slots=True)
class GuideTables:
    """What the guides of one vocabulary share. Arrays are int32 [ceil(size / 32)] sets of ids.

    Attributes:
        text: the ids that write something.
        json_text: those of them that write no control character but the ends of lines.
        not_surrogates: all ids but those that would make half a surrogate pair behind ``surrogate_lead``.
        surrogate_lead: the id of the byte ED; -1 without byte pieces.
    """

    vocabulary: Vocabulary
    text: NDArray[np.int32]
    json_text: NDArray[np.int32]
    not_surrogates: NDArray[np.int32]
    surrogate_lead: int

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> GuideTables:
        """The tables of a vocabulary."""
        lead = vocabulary.byte_id(_SURROGATE_LEAD)
        halves = [token_id for byte in _SURROGATE_NEXT if (token_id := vocabulary.byte_id(byte)) is not None]
        text_ids = vocabulary.text_ids()
        return cls(
            vocabulary=vocabulary,
            text=vocabulary.bits(text_ids),
            json_text=vocabulary.bits(i for i in text_ids if _NOT_IN_JSON.isdisjoint(vocabulary.pieces[i])),
            not_surrogates=~vocabulary.bits(halves),
            surrogate_lead=-1 if lead is None else lead,
        )


class GrammarGuide(Guide):
    """``Guide`` over an xgrammar matcher.

    An answer that costs too much time, or that xgrammar cannot go on with, gets an empty mask for good.

    Args:
        kind: what the grammar was made from.
        grammar: compiled for the vocabulary of ``tables``.
        tables: see ``GuideTables``.
        stop_ids: the request's. They are never part of the structure, whatever they write.
    """

    def __init__(
        self, kind: StructureKind, grammar: xgrammar.CompiledGrammar, tables: GuideTables, stop_ids: tuple[int, ...]
    ) -> None:
        self._matcher = xgrammar.GrammarMatcher(grammar)
        self._tables = tables
        self._stop = tables.vocabulary.bits(stop_ids)
        self._text = (tables.json_text if kind in _JSON else tables.text) & ~self._stop
        self._is_in_surrogate_lead = False
        self._is_broken = False
        self._allowance_s = GRACE_S

    @property
    def is_broken(self) -> bool:
        """Whether it has given the answer up: that took too much time, or xgrammar could not go on."""
        return self._is_broken

    @property
    def is_ended(self) -> bool:
        """See ``Guide.is_ended``."""
        return not self._is_broken and self._matcher.is_completed()

    def fill(self, words: NDArray[np.int32]) -> None:
        """See ``Guide.fill``."""
        began = time.thread_time()
        if not self._is_broken:
            self._fill(words)
        self._allowance_s += began - time.thread_time()
        if self._is_broken or self._allowance_s < 0:
            self._is_broken = True
            words.fill(0)

    def accept(self, token_id: int) -> bool:
        """See ``Guide.accept``."""
        if self._is_broken or not self._is_allowed(token_id):
            return False
        began = time.thread_time()
        is_accepted = self._accept(token_id)
        self._allowance_s += PER_ID_S + began - time.thread_time()
        return is_accepted

    def _fill(self, words: NDArray[np.int32]) -> None:
        try:
            self._matcher.fill_next_token_bitmask(words)
        except RuntimeError:  # what xgrammar raises, whatever happened
            self._is_broken = True
            return
        words &= self._text
        if self._is_in_surrogate_lead:
            words &= self._tables.not_surrogates
        if self._matcher.is_completed():
            words |= self._stop

    def _accept(self, token_id: int) -> bool:
        try:
            is_accepted = self._matcher.accept_token(token_id)
        except RuntimeError:
            self._is_broken = True
            return False
        if is_accepted:
            self._is_in_surrogate_lead = token_id == self._tables.surrogate_lead
        return bool(is_accepted)

    def _is_allowed(self, token_id: int) -> bool:
        if not 0 <= token_id < self._tables.vocabulary.size:
            return False
        word, bit = token_id // 32, 1 << token_id % 32
        is_half = self._is_in_surrogate_lead and not int(self._tables.not_surrogates[word]) & bit
        return not is_half and bool(int(self._text[word]) & bit)
