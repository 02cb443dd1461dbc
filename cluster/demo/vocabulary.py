"""The demo model's tokenizer, trained on its own conversations.

Names must be copied letter by letter, so a name has to fall into the same pieces wherever it stands: behind a blank, a
quote or a Chinese character. A bar in place of each value, and behind each blank before a capital or a Chinese
character, keeps the trainer from joining them; no piece ever spans two scripts.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cluster.demo.data.dialogue import Dialogue
from cluster.demo.data.dialogues import training_dialogues
from cluster.demo.data.words import Words, han_characters, word_list
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.training import train_tokenizer_on

_PIECES: Final = 2032  # nine specials and a few to spare fill the embedding's 2,048 rows
_DIALOGUES: Final = 6000
_INVENTED: Final = 1500  # of each kind and language, so that parts of names have pieces
_BAR: Final = "|"
_BEFORE_VALUE: Final = re.compile(r"(^|(?<=\s))(?=[A-ZА-ЯЁ\u4e00-\u9fff])")


class _Bars(Words):
    """A bar for every value."""

    def value(self, kind: str, language: str) -> str:
        del kind, language
        return _BAR


def make_tokenizer(out_dir: Path, seed: int) -> ChatGLM3Tokenizer:
    """Write the tokenizer's files into ``out_dir``; equal seeds give equal bytes."""
    rng = random.Random(seed)  # noqa: S311 - choice of words, not a secret
    return train_tokenizer_on(_corpus(rng), out_dir, _PIECES, character_coverage=1.0)


def _corpus(rng: random.Random) -> Iterator[str]:
    bars = _Bars(rng, held_out=False)
    for dialogue in itertools.islice(training_dialogues(rng, bars), _DIALOGUES):
        for text in _texts(dialogue):
            yield from (_BEFORE_VALUE.sub(_BAR, line) for line in text.splitlines() if line)
    words = Words(rng, held_out=False)
    yield from (_BAR + word for word in word_list())
    yield from han_characters()
    for language, kind in itertools.product(("en", "ru"), ("name", "city")):
        yield from (_BAR + words.value(kind, language) for _ in range(_INVENTED))


def _texts(dialogue: Dialogue) -> Iterator[str]:
    if dialogue.system:
        yield dialogue.system.content
    for turn in dialogue.turns:
        yield from (turn.message.content, turn.answer.metadata, turn.answer.content)
