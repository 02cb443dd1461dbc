"""Makes a tokenizer of ChatGLM3's kind out of the project's own sentences, for checkpoints with random weights.

It follows the published model's settings, so every rule (byte pieces, dummy prefix, specials behind the last piece)
holds; only the pieces differ. With :data:`PUBLISHED_PIECES` pieces even the special ids are the published ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import sentencepiece

from cluster.errors import ConfigurationError
from cluster.tokenizer.corpus import sentences
from cluster.tokenizer.tokenizer import MODEL_FILE, ChatGLM3Tokenizer

CONFIG_FILE: Final = "tokenizer_config.json"
PUBLISHED_PIECES: Final = 64_789
MIN_PIECES: Final = 520  # three controls, 256 bytes and the characters of the sentences

_COVERAGE: Final = 0.99  # rare characters become bytes, so ordinary answers exercise byte fallback
_PLAIN_PIECES: Final = 1_000  # above, the word lists run out of useful merges and invented words join
_CONFIG: Final = {"tokenizer_class": "ChatGLMTokenizer", "remove_space": False, "do_lower_case": False}
_SETTINGS: Final[dict[str, Any]] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "max_sentencepiece_length": 16,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "num_threads": 1,  # equal arguments give equal bytes
    "minloglevel": 2,  # the trainer otherwise writes its progress to stderr
}


def train_tokenizer(out_dir: str | Path, vocab_size: int = 820, *, seed: int = 0) -> ChatGLM3Tokenizer:
    """Write ``tokenizer.model`` and ``tokenizer_config.json`` into ``out_dir`` (made if missing) and return the result.

    Deterministic. Takes well under a second for the default and about four seconds for ``PUBLISHED_PIECES``.

    Args:
        out_dir: folder of the checkpoint; files of the same names are overwritten.
        vocab_size: pieces of the model, ``MIN_PIECES`` to ``PUBLISHED_PIECES``; nine special ids follow them.
        seed: chooses the sentences.

    Raises:
        ConfigurationError: ``vocab_size`` is out of range.
    """
    if not MIN_PIECES <= vocab_size <= PUBLISHED_PIECES:
        raise ConfigurationError(f"vocab_size must be {MIN_PIECES} to {PUBLISHED_PIECES} pieces, not {vocab_size}.")
    invent_words = vocab_size > _PLAIN_PIECES
    corpus = sentences(seed, 2 * max(_PLAIN_PIECES, vocab_size), invent_words=invent_words)
    return train_tokenizer_on(corpus, out_dir, vocab_size, character_coverage=_COVERAGE)


def train_tokenizer_on(
    corpus: Iterable[str], out_dir: str | Path, vocab_size: int, *, character_coverage: float
) -> ChatGLM3Tokenizer:
    """The same from other sentences.

    Args:
        corpus: one sentence each, without line breaks.
        out_dir: folder of the checkpoint; files of the same names are overwritten.
        vocab_size: pieces of the model.
        character_coverage: share of the corpus' characters that get a piece of their own; the others become bytes.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        **_SETTINGS,
    )
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(model.getvalue())
    (folder / CONFIG_FILE).write_text(json.dumps(_CONFIG, indent=2) + "\n")
    return ChatGLM3Tokenizer.from_pretrained(folder)
