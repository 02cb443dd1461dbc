"""Writes a question as people type: without its mark, in lower case, behind a greeting, with a slip."""

from __future__ import annotations

import random
import re
from typing import Final

from cluster.demo.data.phrases import Language

_HAN: Final = re.compile(r"[\u4e00-\u9fff]")


def as_typed(rng: random.Random, phrase: str, language: Language) -> str:
    """The phrase as somebody in a hurry writes it; slots stay as they are."""
    if rng.random() < 0.08:
        phrase = _without_a_character(rng, phrase) if language.code == "zh" else _with_a_slip(rng, phrase)
    if rng.random() < 0.3:
        phrase = phrase.rstrip("?.!？。！")
    if rng.random() < 0.2:
        phrase = phrase[:1].lower() + phrase[1:]
    if rng.random() < 0.2:
        phrase = rng.choice(language.openings) + phrase
    return phrase


def _with_a_slip(rng: random.Random, phrase: str) -> str:
    """Without one of its words, or with two letters of one exchanged."""
    words = phrase.split(" ")
    plain = [place for place, word in enumerate(words) if "{" not in word]
    if len(plain) < 3:
        return phrase
    place = rng.choice(plain)
    word = words[place]
    cut = rng.randrange(len(word))
    words[place] = "" if rng.random() < 0.5 else word[:cut] + word[cut:][1::-1] + word[cut + 2 :]
    return " ".join(word for word in words if word)


def _without_a_character(rng: random.Random, phrase: str) -> str:
    places = [match.start() for match in _HAN.finditer(phrase)]
    if len(places) < 4:
        return phrase
    place = rng.choice(places)
    return phrase[:place] + phrase[place + 1 :]
