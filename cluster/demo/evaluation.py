"""Measures the demo model on names, places, values and phrasings that its training data never held."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.demo.data.dialogue import Dialogue, Turn
from cluster.demo.data.languages import LANGUAGES
from cluster.demo.data.phrases import Language
from cluster.demo.data.writer import FACTS, Writer
from cluster.demo.play import Answer, Player
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

GREEDY: Final = 0.0
SAMPLED: Final = 0.8  # with ChatGLM3's own top-p of 0.8

TARGETS: Final[dict[str, float]] = {  # least share of right answers
    "recall over 6 turns": 0.95,
    "tool name and arguments": 0.95,
    "observation used": 0.90,
    "sums within the taught range": 0.90,
    "persona kept": 0.80,
    "right topic": 0.90,
    "honest about what it does not know": 0.90,
    "ends by itself": 0.99,
    "answers in the language of the question": 0.98,
    "re-encodes to the same ids": 0.98,
}
_MEASURES: Final = {  # kind of a turn -> what it counts for; topics have the same names in every language
    **{topic.name: "right topic" for language in LANGUAGES.values() for topic in language.topics},
    "recall": "recall over 6 turns",
    "tool": "tool name and arguments",
    "observation": "observation used",
    "sum": "sums within the taught range",
    "persona": "persona kept",
    "unknown": "honest about what it does not know",
}
_BETWEEN: Final = 4  # turns between telling and asking: six with both

_HAN: Final = re.compile(r"[\u4e00-\u9fff]")
_CYRILLIC: Final = re.compile(r"[а-яё]", re.IGNORECASE)
_LATIN: Final = re.compile(r"[a-z]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Score:
    """How many of the answers that a measure is about were right."""

    measure: str
    right: int
    total: int

    @property
    def share(self) -> float:
        """Right ones of all, 0 to 1."""
        return self.right / self.total

    @property
    def passed(self) -> bool:
        """Whether the target is reached."""
        return self.share >= TARGETS[self.measure]


def target(measure: str) -> str:
    """A measure's target in per cent, for people."""
    return f"{TARGETS[measure]:.0%}"


def evaluate(folder: Path, *, per_language: int, temperature: float, seed: int = 1) -> tuple[list[Score], list[Answer]]:
    """Play ``per_language`` dialogues of each kind in each language.

    Returns:
        One score per measure, and the answers that miss one of them.
    """
    player = Player(folder)
    answers = player.play(list(_dialogues(per_language, seed)), temperature=temperature, seed=seed)
    judged = {measure: verdicts(measure, answers, player.tokenizer) for measure in TARGETS}
    scores = [Score(measure, sum(right for _, right in each), len(each)) for measure, each in judged.items()]
    wrong = {id(answer): answer for each in judged.values() for answer, right in each if not right}
    return scores, list(wrong.values())


def _dialogues(per_language: int, seed: int) -> Iterator[Dialogue]:
    for language in LANGUAGES.values():
        for write in (_recall, _tools, _sums, _persona, _talk):
            for number in range(per_language):
                rng = random.Random(f"{seed} {language.code} {write.__name__} {number}")  # noqa: S311 - no secret
                yield write(rng, language)


def _recall(rng: random.Random, language: Language) -> Dialogue:
    """A fact is told, other things are talked about, the fact is asked for."""
    writer = Writer(rng, language, held_out=True)
    asked = rng.choice(FACTS)
    others = [kind for kind in FACTS if kind != asked]
    writer.tell(asked)
    other_talk: list[Callable[[], None]] = [writer.topic, writer.add, writer.unknown, writer.weather]
    other_talk.append(lambda: writer.tell(rng.choice(others)))
    for _ in range(_BETWEEN):
        rng.choice(other_talk)()
    writer.recall(asked)
    return writer.dialogue


def _tools(rng: random.Random, language: Language) -> Dialogue:
    """Two calls of a weather service or a calculator, and what comes of their results."""
    writer = Writer(rng, language, held_out=True)
    while not (writer.tools.weather or writer.tools.calculator):
        writer.offer_tools()
    for _ in range(2):
        usable = [writer.weather] * bool(writer.tools.weather) + [writer.calculate] * bool(writer.tools.calculator)
        rng.choice(usable)()
    return writer.dialogue


def _sums(rng: random.Random, language: Language) -> Dialogue:
    writer = Writer(rng, language, held_out=True)
    for _ in range(2):
        writer.add()
    return writer.dialogue


def _persona(rng: random.Random, language: Language) -> Dialogue:
    writer = Writer(rng, language, held_out=True)
    writer.be_persona()
    writer.who()
    return writer.dialogue


def _talk(rng: random.Random, language: Language) -> Dialogue:
    writer = Writer(rng, language, held_out=True)
    for talk in (writer.topic, writer.unknown, writer.topic):
        talk()
    return writer.dialogue


def verdicts(measure: str, answers: Sequence[Answer], tokenizer: ChatGLM3Tokenizer) -> list[tuple[Answer, bool]]:
    """The answers that a measure of ``TARGETS`` is about, each with whether it is right."""
    if measure == "ends by itself":
        return [(answer, answer.ended) for answer in answers]
    if measure == "re-encodes to the same ids":
        return [(answer, _encoded_again(answer, tokenizer) == answer.ids) for answer in answers]
    if measure == "answers in the language of the question":
        return [(answer, _is_in(answer.turn, answer)) for answer in answers if answer.turn.kind != "tool"]
    return [(answer, _is_right(answer)) for answer in answers if _MEASURES.get(answer.turn.kind) == measure]


def _is_right(answer: Answer) -> bool:
    """A tool call must be the expected one letter by letter; prose must hold what is needed, or be what is taught."""
    wanted, said = answer.turn.answer, answer.message
    if wanted.metadata or said.metadata or not answer.turn.needed:
        return said == wanted
    return all(part in said.content for part in answer.turn.needed)


def _encoded_again(answer: Answer, tokenizer: ChatGLM3Tokenizer) -> list[int]:
    """The ids that a client's copy of the answer would get from the template."""
    header = tokenizer.encode_text(f"{answer.message.metadata}\n")
    return header + tokenizer.encode_text(answer.message.content)


def _is_in(turn: Turn, answer: Answer) -> bool:
    """Whether the answer's own words, without the values it repeats, are in the question's script."""
    text = answer.message.content
    for value in turn.needed:
        text = text.replace(value, "")
    has_han, has_cyrillic, has_latin = (bool(script.search(text)) for script in (_HAN, _CYRILLIC, _LATIN))
    if turn.language == "en":
        return not (has_han or has_cyrillic)
    foreign, own = (has_cyrillic, has_han) if turn.language == "zh" else (has_han, has_cyrillic)
    return not foreign and (own or not has_latin)
