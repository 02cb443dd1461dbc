"""The tokenizer as users of the published model and of transformers call it.

The same ids as the class that serves, which it extends; only the ways in and out are more. Padding is on the left, with
id 0. Special tokens in a text stay text, unless ``encode_special_tokens`` says that the text may be trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cluster.errors import InvalidRequestError
from cluster.tokenizer import arguments, template, tokenizer
from cluster.tokenizer.encoding import Encoding
from cluster.tokenizer.responses import copy_history

_CONFIG: Final = (
    '{\n  "name_or_path": "THUDM/chatglm3-6b",\n  "remove_space": false,\n  "do_lower_case": false,\n'
    '  "tokenizer_class": "ChatGLMTokenizer"\n}\n'
)
_SHOWN_SPECIALS: Final = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *(f"<|{role}|>" for role in tokenizer.ROLES))


class ChatGLM3Tokenizer(tokenizer.ChatGLM3Tokenizer):
    """Text to ids and back; call it for a model's inputs.

    Args:
        model: a serialized SentencePiece model.
        source: what to call the model in an error.

    Attributes:
        encode_special_tokens: turn the four role texts of a *trusted* text into role ids when encoding.
    """

    bos_token = "<s>"  # noqa: S105  # a piece's text
    eos_token = "</s>"  # noqa: S105  # see above
    unk_token = pad_token = "<unk>"  # noqa: S105  # see above
    bos_token_id, eos_token_id, pad_token_id, unk_token_id = 1, 2, 0, 0
    padding_side = "left"
    truncation_side = "right"  # the first ids stay
    is_fast = False
    model_input_names = ("input_ids", "attention_mask", "position_ids")
    model_max_length = 1 << 30  # the model's own seq_length decides
    encode_special_tokens = False
    name_or_path = ""

    def __reduce__(self) -> tuple[Any, ...]:
        kept = {"encode_special_tokens": self.encode_special_tokens, "name_or_path": self.name_or_path}
        return (*super().__reduce__(), kept)

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> ChatGLM3Tokenizer:
        """Read ``tokenizer.model`` from a folder (or the file itself).

        Args:
            path: the folder.
            options: ``encode_special_tokens`` (see the class) and ``padding_side`` ("left"); ``trust_remote_code`` and
                others that loaders hand on are ignored, as no code is ever read from a checkpoint.

        Raises:
            CheckpointError: the file is missing or no tokenizer of this kind.
            InvalidRequestError: ``padding_side`` is not "left".
        """
        arguments.check_side(options.get("padding_side"))
        made = super().from_pretrained(path)
        assert isinstance(made, ChatGLM3Tokenizer)
        made.encode_special_tokens = bool(options.get("encode_special_tokens", False))
        made.name_or_path = str(path)
        return made

    def save_pretrained(self, folder: str | Path, **_: Any) -> tuple[str, ...]:
        """Write ``tokenizer.model`` and ``tokenizer_config.json`` into ``folder``; their paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        model, config = target / tokenizer.MODEL_FILE, target / "tokenizer_config.json"
        model.write_bytes(self._model)
        config.write_text(_CONFIG, encoding="utf-8")
        return str(model), str(config)

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def all_special_tokens(self) -> list[str]:
        """The texts of ids that ``skip_special_tokens`` leaves out."""
        return ["<unk>", "<s>", "</s>", *_SHOWN_SPECIALS]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids 0, 1, 2 and the nine specials."""
        return [0, 1, 2, *range(self.num_pieces, self.vocab_size)]

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[tuple[str, str]],
        text_pair: str | Sequence[str] | None = None,
        *,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
        padding_side: str | None = None,
        **ignored: Any,
    ) -> Encoding:
        """A model's inputs for one text or a batch of them: ids, mask and positions, padded on the left.

        Args:
            text: one text, a list of texts, or a list of pairs.
            text_pair: the second text(s); a pair is ``[gMASK] sop`` a b ``</s>``.
            padding: False, True or "longest", or "max_length" (to ``max_length``). A batch in tensors needs it unless
                its rows are equally long.
            truncation: True or "longest_first": cut rows to ``max_length`` ids, on the right; of a pair the longer
                text, so that its ``</s>`` stays.
            max_length: see ``padding`` and ``truncation``.
            return_tensors: "pt", "np", or None for lists. Tensors are [batch, n], also for one text.
            add_special_tokens: put ``[gMASK] sop`` in front.
            padding_side: "left" and nothing else.
            ignored: ``return_attention_mask`` and others that ask for what is there anyway.

        Raises:
            InvalidRequestError: an argument is wrong; names it.
        """
        arguments.check_side(padding_side)
        arguments.refuse_unknown(ignored)
        is_batch = isinstance(text, (list, tuple))
        firsts: list[Any] = list(text) if is_batch else [text]
        limit = arguments.row_limit(truncation, max_length)
        rows = [
            self._row(*pair, limit=limit, is_bare=not add_special_tokens) for pair in arguments.pairs(firsts, text_pair)
        ]
        inputs = self._inputs(rows, padding, max_length)
        if not is_batch and return_tensors is None:
            inputs = {name: column[0] for name, column in inputs.items()}
        return Encoding(inputs).as_tensors(return_tensors)

    def encode(  # type: ignore[override]  # the same for the arguments that the other one has
        self,
        text: str,
        text_pair: str | None = None,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        **ignored: Any,
    ) -> Any:
        """``[gMASK] sop`` and the ids of ``text``; with a pair also its ids and ``</s>``. A list, or a tensor [1, n].

        The empty text gives the prefix alone. Arguments are those of a call, without padding.
        """
        arguments.refuse_unknown(ignored)
        ids = self._row(
            text, text_pair, limit=arguments.row_limit(truncation, max_length), is_bare=not add_special_tokens
        )
        return Encoding({"ids": [ids]}).as_tensors(return_tensors)["ids"] if return_tensors else ids

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:  # noqa: FBT001, FBT002  # as transformers has it
        """The text of one id, a list, or a tensor [n] or [1, n].

        Ids 0, 1, 2 and those outside the vocabulary show nothing; other specials show their text, unless skipped. Bytes
        that form no character give one U+FFFD each.
        """
        flat = _flat(ids)
        if skip_special_tokens:
            flat = [token_id for token_id in flat if token_id < self.num_pieces]
        return super().decode(flat)

    def batch_decode(self, rows: Iterable[Any], skip_special_tokens: bool = False, **_: Any) -> list[str]:  # noqa: FBT001, FBT002  # see decode
        """``decode`` of each row."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    def pad(self, batch: Sequence[Sequence[int]], length: int = 0) -> tokenizer.PaddedBatch:
        """Rows of ids, padded on the left to the longest of them, or to ``length`` where that is more.

        Raises:
            InvalidRequestError: they are no rows of ids.
        """
        if isinstance(batch, Mapping) or not all(isinstance(row, (list, tuple)) for row in batch):
            raise InvalidRequestError("pad takes rows of ids; to pad texts call the tokenizer.", param="batch")
        return super().pad(batch, length)

    def build_chat_input(self, query: str, history: Sequence[Any] | None = None, role: str = "user") -> Encoding:
        """The prompt of a chat as tensors [1, n], see ``template.chat_input_ids``.

        Raises:
            InvalidRequestError: a role is unknown, or an item of the history is malformed.
        """
        ids = template.chat_input_ids(self, query, copy_history(history), role)
        return Encoding(self._inputs([ids], False, None)).as_tensors("pt")

    def build_single_message(self, role: str, metadata: str, message: str) -> list[int]:
        """The ids of one message: the role, ``metadata`` and a newline, the text.

        Raises:
            InvalidRequestError: the role is unknown.
        """
        return template.message_ids(self, role, message, metadata)

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """The pieces of a text, ``▁`` for a blank; no specials."""
        return [self.piece(token_id) for token_id in self._text_ids(text)]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id(s) of piece(s) or special texts; unknown ones are id 0."""
        if isinstance(tokens, str):
            return self._commands.get(tokens, self._sp.piece_to_id(tokens))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The piece(s) of id(s); "" for ids that show nothing."""
        return self.piece(ids) if isinstance(ids, int) else [self.piece(token_id) for token_id in _flat(ids)]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text that pieces spell."""
        text: str = self._sp.decode_pieces(list(tokens))
        return text

    def get_vocab(self) -> dict[str, int]:
        """Piece -> id, for every id that shows something."""
        return {self.piece(token_id): token_id for token_id in range(self.vocab_size) if self.piece(token_id)}

    def apply_chat_template(self, *_: Any, **__: Any) -> Any:
        """Refused: ChatGLM3 has no text template.

        Raises:
            InvalidRequestError: always; ``build_chat_input`` is what to call.
        """
        raise InvalidRequestError("ChatGLM3's template is made of ids, not of text; call build_chat_input instead.")

    def _row(self, text: str, pair: str | None = None, *, limit: int | None, is_bare: bool) -> list[int]:
        """The ids of a text or a pair, at most ``limit``; ``is_bare`` leaves prefix and end out."""
        prefix = [] if is_bare else template.prefix_ids(self)
        if pair is None:
            return [*prefix, *self._text_ids(text)][:limit]
        end = [] if is_bare else [self.eos_id]
        both = self._text_ids(text), self._text_ids(pair)
        if limit is not None:
            arguments.shorten(*both, room=limit - len(prefix) - len(end))
        return [*prefix, *both[0], *both[1], *end][:limit]

    def _text_ids(self, text: str) -> list[int]:
        return self.encode_with_roles(text) if self.encode_special_tokens else self.encode_text(text)

    def _inputs(self, rows: list[list[int]], padding: bool | str, max_length: int | None) -> dict[str, list[Any]]:  # noqa: FBT001  # internal
        if padding not in {False, True, "longest", "max_length", "do_not_pad"}:
            raise InvalidRequestError(f"padding is {padding!r}; it can be True or 'max_length'.", param="padding")
        if padding in {False, "do_not_pad"}:
            made = [super(ChatGLM3Tokenizer, self).pad([row]) for row in rows]
            return {name: [getattr(row, name)[0] for row in made] for name in self.model_input_names}
        batch = self.pad(rows, length=arguments.needed(max_length) if padding == "max_length" else 0)
        return {name: getattr(batch, name) for name in self.model_input_names}


def _flat(ids: Any) -> list[int]:
    held = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(held, int):
        return [held]
    if not isinstance(held, Iterable):
        raise InvalidRequestError(f"Ids are needed, not {type(held).__name__}.", param="ids")
    rows = [each.tolist() if hasattr(each, "tolist") else each for each in held]
    if len(rows) == 1 and isinstance(rows[0], (list, tuple)):
        rows = list(rows[0])
    if not all(isinstance(token_id, int) for token_id in rows):
        raise InvalidRequestError("decode takes the ids of one text; batch_decode takes rows.", param="ids")
    return rows
