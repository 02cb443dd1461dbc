"""The training data: conversations without end.

Each is a walk: a turn is drawn by what has been told so far, which tools there are and who the model is to be, so every
distance between telling and asking occurs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from cluster.demo.data.dialogue import Dialogue
from cluster.demo.data.languages import LANGUAGES
from cluster.demo.data.words import Words
from cluster.demo.data.writer import FACTS, Writer

_SWITCH: Final = 0.03  # chance per turn that the person goes on in another language


def training_dialogues(rng: random.Random, words: Words | None = None) -> Iterator[Dialogue]:
    """Conversations without end; equal generators give equal ones. Mostly short, a few that fill the context."""
    while True:
        writer = Writer(rng, rng.choice(tuple(LANGUAGES.values())), words=words)
        begin = rng.random()
        if begin < 0.27:
            writer.offer_tools()
        elif begin < 0.43:
            writer.be_persona()
        elif begin < 0.52:
            writer.be_assistant()
        for _ in range(_length(rng)):
            _step(rng, writer)
        yield writer.dialogue


def _length(rng: random.Random) -> int:
    draw = rng.random()
    if draw < 0.45:
        return rng.randint(1, 4)
    if draw < 0.85:
        return rng.randint(4, 9)
    return rng.randint(9, 18) if draw < 0.98 else rng.randint(30, 60)


def _step(rng: random.Random, writer: Writer) -> None:
    """One turn of any kind that fits."""
    if rng.random() < _SWITCH:
        writer.language = rng.choice(tuple(LANGUAGES.values()))
    moves: list[tuple[Callable[[], None], float]] = [
        (writer.topic, 4.0),
        (writer.unknown, 1.2),
        (writer.tell_both, 0.5),
        (writer.weather, 6.0 if writer.tools.weather else 0.8),
    ]
    moves += [(writer.calculate, 5.0)] if writer.tools.calculator else [(writer.add, 3.0), (writer.add_large, 0.7)]
    moves += [(writer.who, 4.0)] if writer.persona else []
    moves += [(writer.recall_both, 1.5)] if {"name", "city"} <= writer.known.keys() else []
    for kind in FACTS:
        is_known = kind in writer.known
        moves.append((partial(writer.tell, kind), 0.25 if is_known else 1.2))
        moves.append((partial(writer.recall, kind), 2.0 if is_known else 0.3))
    chosen, weights = zip(*moves, strict=True)
    rng.choices(chosen, weights)[0]()
