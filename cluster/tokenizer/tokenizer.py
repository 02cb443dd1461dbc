"""ChatGLM3's tokenizer: a SentencePiece model and nine special ids behind its last piece.

Specials exist as ids only. No text is ever turned into one, except by ``encode_with_roles``, which is for trusted text:
this is what keeps a user from writing ``<|system|>`` into a prompt. Every separately encoded string gets a dummy prefix
(a leading ``▁``) of its own, so ``encode_text(a) + encode_text(b)`` is not ``encode_text(a + b)``.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sentencepiece

from cluster.errors import CheckpointError, InvalidRequestError

MODEL_FILE: Final = "tokenizer.model"
ROLES: Final = ("system", "user", "assistant", "observation")

_SPECIALS: Final = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    *(f"<|{role}|>" for role in ROLES),
)
_UNK, _BOS, _EOS = range(3)
_PAD: Final = _UNK  # the published model pads with its unknown id
_FIRST_BYTE: Final = 3
_BYTE_IDS: Final = range(_FIRST_BYTE, _FIRST_BYTE + 256)
_ROLE_TEXT: Final = re.compile("(" + "|".join(re.escape(f"<|{role}|>") for role in ROLES) + ")")
_PROBE: Final = "  ｘ ﬁ\t  "  # a normalizer that is not the identity, or that trims blanks, changes it


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Rows of equal length, padded on the left. All three fields are [batch, length].

    Attributes:
        input_ids: token ids, the pad id in front.
        attention_mask: 0 over padding, 1 over tokens.
        position_ids: 0 over padding, then 0, 1, … over tokens.
    """

    input_ids: list[list[int]]
    attention_mask: list[list[int]]
    position_ids: list[list[int]]


class ChatGLM3Tokenizer:
    """Text to ids and back. Immutable, so threads may share it; pickling carries the model's bytes.

    Build it with :meth:`from_pretrained`. ``num_pieces`` ids come from SentencePiece, then nine specials up to
    ``vocab_size``; the model's embedding may have more rows, and ids out there decode to nothing.

    Args:
        model: a serialized SentencePiece model.
        source: what to call the model in an error, usually its path.

    Raises:
        CheckpointError: the bytes are not a SentencePiece model, or one of another family.
    """

    def __init__(self, model: bytes, *, source: str = MODEL_FILE) -> None:
        self._model = model
        self._sp = _load_sentencepiece(model, source)
        self.fingerprint = hashlib.blake2b(model, digest_size=16).hexdigest()  # equal bytes, equal ids
        self.num_pieces: int = self._sp.get_piece_size()
        self._commands = {text: self.num_pieces + offset for offset, text in enumerate(_SPECIALS)}
        self.vocab_size = self.num_pieces + len(_SPECIALS)
        self.gmask_id = self._commands["[gMASK]"]
        self.sop_id = self._commands["sop"]
        self.eos_id = _EOS
        self.pad_id = _PAD
        self.stop_ids = (_EOS, self._commands["<|user|>"], self._commands["<|observation|>"])
        self._commands |= {"<bos>": _BOS, "<eos>": _EOS, "<pad>": _PAD}
        # What each id shows to the decoder: unknown, bos and eos show nothing.
        self._pieces: list[str] = [""] * _FIRST_BYTE
        self._pieces += self._sp.id_to_piece(list(range(_FIRST_BYTE, self.num_pieces)))
        self._pieces += _SPECIALS

    @classmethod
    def from_pretrained(cls, path: str | Path) -> ChatGLM3Tokenizer:
        """Read ``tokenizer.model`` from a checkpoint folder (or the file itself).

        Raises:
            CheckpointError: the file is missing, unreadable or no such model; names the file.
        """
        file = Path(path)
        if file.is_dir():
            file /= MODEL_FILE
        try:
            model = file.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"Cannot read the tokenizer model {file}: {error.strerror}; a checkpoint's folder holds one."
            ) from error
        return cls(model, source=str(file))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model,)

    def get_command(self, text: str) -> int:
        """The id of a special text (``[gMASK]``, ``sop``, ``<|user|>`` …) or of ``<bos>``, ``<eos>``, ``<pad>``.

        Raises:
            InvalidRequestError: there is no such special.
        """
        try:
            return self._commands[text]
        except KeyError:
            raise InvalidRequestError(f"{text!r} is not a special token of this tokenizer.") from None

    def role_id(self, role: str) -> int:
        """The id that opens a message of ``role``.

        Raises:
            InvalidRequestError: the role is not one of :data:`ROLES`.
        """
        if role not in ROLES:
            raise InvalidRequestError(f"Unknown role {role!r}; the roles are {', '.join(ROLES)}.", param="role")
        return self._commands[f"<|{role}|>"]

    def piece(self, token_id: int) -> str:
        """What the id shows: a piece (``▁`` for a blank, ``<0x0A>`` for a byte), a special text, or "" for the rest.

        Ids 0, 1, 2 and those outside the vocabulary show nothing.
        """
        return self._pieces[token_id] if 0 <= token_id < self.vocab_size else ""

    def byte(self, token_id: int) -> int | None:
        """The byte 0…255 that the id stands for, or None when it is not a byte piece."""
        return token_id - _FIRST_BYTE if token_id in _BYTE_IDS else None

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text, each below ``num_pieces``. The empty text has none. Linear: about 5 MB a second.

        Raises:
            InvalidRequestError: it is no text, or holds a lone surrogate, which no UTF-8 text can.
        """
        _check_text(text)
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"The text is not valid Unicode: it holds a lone surrogate (U+{ord(text[error.start]):04X}) "
                f"at character {error.start}."
            ) from error
        ids: list[int] = self._sp.encode(encoded)
        return ids

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """``[gMASK] sop`` and the ids of ``text``; with a pair also its ids and ``</s>``."""
        ids = [self.gmask_id, self.sop_id, *self.encode_text(text)]
        return ids if pair is None else [*ids, *self.encode_text(pair), self.eos_id]

    def encode_with_roles(self, text: str) -> list[int]:
        """The ids of trusted text in which the four role texts become their ids; ``[gMASK]`` and others stay text.

        Each stretch between roles is encoded by itself. No prefix is put in front. Never feed it a user's text.

        Raises:
            InvalidRequestError: see ``encode_text``.
        """
        _check_text(text)
        parts = _ROLE_TEXT.split(text)  # stretches at even places, role texts at odd ones
        return list(itertools.chain.from_iterable(map(self._encode_part, range(len(parts)), parts)))

    def _encode_part(self, place: int, part: str) -> list[int]:
        return [self._commands[part]] if place % 2 else self.encode_text(part)

    def pad(self, batch: Sequence[Sequence[int]], length: int = 0) -> PaddedBatch:
        """Pad rows on the left to the longest of them, or to ``length`` where that is more."""
        width = max([length, *map(len, batch)])
        return PaddedBatch(
            input_ids=[[self.pad_id] * (width - len(row)) + list(row) for row in batch],
            attention_mask=[[0] * (width - len(row)) + [1] * len(row) for row in batch],
            position_ids=[[0] * (width - len(row)) + list(range(len(row))) for row in batch],
        )

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, specials included. Bytes that form no character give one U+FFFD each.

        One leading blank is dropped while nothing has been written; behind a special or a byte it is a real blank.
        """
        text: str = self._sp.decode_pieces([self.piece(token_id) for token_id in ids])
        return text


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequestError(f"A text is needed, not {type(text).__name__}.", param="text")


def _load_sentencepiece(model: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    sp = sentencepiece.SentencePieceProcessor()
    try:
        sp.LoadFromSerializedProto(model)
        fault = _find_fault(sp)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{source} is not a SentencePiece model ({len(model)} bytes; a pointer of Git LFS or a damaged download?)."
        ) from error
    if fault:
        raise CheckpointError(f"{source} is not a tokenizer of ChatGLM3's kind: {fault}.")
    return sp


def _find_fault(sp: sentencepiece.SentencePieceProcessor) -> str:
    """Say what would make text, ids or special ids differ from ChatGLM3's rules, or "" when nothing does."""
    ids = list(range(sp.get_piece_size()))
    if (sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()) != (_UNK, _BOS, _EOS, -1):
        return "ids 0, 1, 2 must be unknown, begin and end, without a pad piece"
    if sp.id_to_piece(ids)[_FIRST_BYTE : _BYTE_IDS.stop] != [f"<0x{byte:02X}>" for byte in range(256)]:
        return "ids 3 to 258 must be the bytes"
    if [i for i, is_control in zip(ids, sp.is_control(ids), strict=True) if is_control] != [_BOS, _EOS]:
        return "it has control pieces of its own"
    if sp.decode(sp.encode(_PROBE)) != _PROBE:
        return "it changes text before encoding it"
    return ""
