"""Log probabilities of an answer's ids, on their way to the caller beside the text.

An entry speaks of one id, and ids are not characters: its text may be a single byte of one, and its bytes are then the
only exact thing to say. Entries are told in order, each once, and never before it is certain that its id stays in the
answer. They are not journaled: an answer rebuilt from its record has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.protocol import Logprobs
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turns.events import TokenLogprob

LEAST = -9999.0  # what OpenAI writes for an impossible token: JSON has no infinity
_BLANK = "\u2581"  # ▁
_SILENT = {0: "<unk>", 1: "<s>", 2: "</s>"}  # ids that show nothing, as SentencePiece names them
_ASCII = 0x80


class LogprobBook:
    """The entries of one answer, by place.

    Attributes:
        entries: of all ids taken, told or not.
        num_told: how many of them the caller has.
    """

    __slots__ = ("_tokenizer", "entries", "num_told")

    def __init__(self, tokenizer: ChatGLM3Tokenizer) -> None:
        self.entries: list[TokenLogprob] = []
        self.num_told = 0
        self._tokenizer = tokenizer

    def add(self, ids: Sequence[int], logprobs: Sequence[Logprobs]) -> None:
        """More ids and what was reported of each."""
        self.entries += [_entry(self._tokenizer, *pair) for pair in zip(ids, logprobs, strict=True)]

    def tell(self, end: int) -> tuple[TokenLogprob, ...]:
        """The entries in front of place ``end`` that were not told yet."""
        start, self.num_told = self.num_told, max(end, self.num_told)
        return tuple(self.entries[start : self.num_told])

    def told(self) -> tuple[TokenLogprob, ...]:
        """All entries told so far."""
        return tuple(self.entries[: self.num_told])


def _entry(tokenizer: ChatGLM3Tokenizer, token_id: int, logprobs: Logprobs) -> TokenLogprob:
    best = zip(logprobs.top_ids, logprobs.top, strict=True)
    return _named(tokenizer, token_id, logprobs.drawn, tuple(_named(tokenizer, *one) for one in best))


def _named(
    tokenizer: ChatGLM3Tokenizer, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
) -> TokenLogprob:
    text, data = token_text(tokenizer, token_id)
    return TokenLogprob(text, data, max(logprob, LEAST), top)


def token_text(tokenizer: ChatGLM3Tokenizer, token_id: int) -> tuple[str, bytes | None]:
    r"""What one id shows, and its bytes; None where it shows nothing. Part of a character is written ``\xe4``."""
    byte = tokenizer.byte(token_id)
    if byte is not None:
        return chr(byte) if byte < _ASCII else f"\\x{byte:02x}", bytes((byte,))
    text = tokenizer.piece(token_id).replace(_BLANK, " ")
    return (text, text.encode()) if text else (_SILENT.get(token_id, ""), None)
