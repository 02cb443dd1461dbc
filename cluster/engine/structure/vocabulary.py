"""What each id of a model writes, as bytes, and sets of ids as bits.

The bytes are those of the detokenizer, so what a grammar accepts is what a caller reads. Ids that write nothing
(specials, the unknown id, rows of the embedding behind the tokenizer's last id) are never part of a structure.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

_BLANK = "\u2581"  # ▁, which SentencePiece writes for a blank


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of one model.

    Attributes:
        pieces: what each id writes; empty for an id that writes nothing. Ids behind the last one write nothing.
        size: ids the model can draw, rows of padding included.
        stop_ids: ids that end an answer by default; they write nothing.
    """

    pieces: list[bytes]
    size: int
    stop_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: ChatGLM3Tokenizer, size: int) -> Vocabulary:
        """The vocabulary of a model with ``size`` rows in its output layer."""
        pieces = [_written(tokenizer, token_id) for token_id in range(min(tokenizer.vocab_size, size))]
        return cls(pieces=pieces, size=size, stop_ids=tokenizer.stop_ids)

    def byte_id(self, byte: int) -> int | None:
        """The id that writes one byte of a longer character, if there is one."""
        try:
            return self.pieces.index(bytes((byte,)))
        except ValueError:
            return None

    def bits(self, ids: Iterable[int]) -> NDArray[np.int32]:
        """A set of ids as int32 [ceil(size / 32)]; ids outside the vocabulary are left out."""
        flags = np.zeros(-(-self.size // 32) * 32, dtype=np.bool_)
        flags[[token_id for token_id in ids if 0 <= token_id < self.size]] = True
        return np.packbits(flags, bitorder="little").view(np.int32)

    def text_ids(self) -> list[int]:
        """The ids that write something."""
        return [token_id for token_id, piece in enumerate(self.pieces) if piece]


def _written(tokenizer: ChatGLM3Tokenizer, token_id: int) -> bytes:
    byte = tokenizer.byte(token_id)
    if byte is not None:
        return bytes((byte,))
    return tokenizer.piece(token_id).replace(_BLANK, " ").encode() if token_id < tokenizer.num_pieces else b""
