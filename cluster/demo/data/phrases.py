"""Ways to say one thing, and which of them are taught.

Phrases stand in one string, separated by ``|``. One that begins with ``~`` is never taught: the evaluation uses those,
so that what it measures is understanding and not memory.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

SLOT = re.compile(r"\{\w+\}")


@dataclass(frozen=True, slots=True)
class Ways:
    """Alternatives with ``{slots}``; both halves are non-empty where a thing is asked, answers have only taught ones."""

    taught: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def pick(self, rng: random.Random, *, held_out: bool = False) -> str:
        """One of the taught ways, or one of the others."""
        return rng.choice(self.held_out if held_out else self.taught)


def ways(text: str) -> Ways:
    """``a|b|~c`` as taught (a, b) and held out (c)."""
    each = [way.strip() for way in text.split("|")]
    return Ways(
        tuple(way for way in each if not way.startswith("~")),
        tuple(way[1:] for way in each if way.startswith("~")),
    )


@dataclass(frozen=True, slots=True)
class Topic:
    """Questions that mean the same, and the answers to all of them."""

    name: str
    ask: Ways
    answer: Ways


def topics(text: str) -> tuple[Topic, ...]:
    """Parse three lines a topic: ``# name``, ``? questions``, ``! answers``; blank lines between are ignored."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    rows = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    return tuple(Topic(_body(name, "#"), ways(_body(ask, "?")), ways(_body(answer, "!"))) for name, ask, answer in rows)


def _body(line: str, mark: str) -> str:
    assert line.startswith(mark), f"expected a line that begins with {mark}: {line}"
    return line[1:].strip()


@dataclass(frozen=True, slots=True)
class Fact:
    """Something a person tells about themselves and asks for later. The slot is ``{value}``.

    Attributes:
        tell: the person says it.
        noted: the answer to that.
        ask: the person asks for it.
        recall: the answer when it was told.
        untold: the answer when it was not.
    """

    tell: Ways
    noted: Ways
    ask: Ways
    recall: Ways
    untold: Ways


@dataclass(frozen=True, slots=True)
class Language:
    """Everything the demo model can talk about in one language.

    Attributes:
        code: ``en``, ``zh`` or ``ru``.
        topics: small talk and questions about the cluster.
        facts: ``name``, ``city`` and ``code``.
        tell_both, noted_both, ask_both, recall_both: name and city in one breath; slots ``{name}``, ``{city}``.
        ask_sum, sum_answer: slots ``{a}``, ``{b}``, ``{c}``.
        ask_large, too_large: sums above the taught range.
        systems: system messages that change nothing.
        persona, ask_persona, be_persona: a system message that gives a name and a job; slots ``{name}``, ``{job}``.
        jobs: what a persona can be.
        ask_weather: slot ``{city}``.
        no_weather: the answer without a tool.
        weather: the answer from an observation; slots ``{city}``, ``{degrees}``, ``{sky}``.
        skies: English word of a weather service -> word of this language.
        ask_calculation: slot ``{expression}``.
        operators: spoken operator -> sign.
        result: the answer from an observation; slot ``{result}``.
        tool_error: the answer from a tool's error; slot ``{error}``.
        errors: messages of tools.
        ask_about: asks for anything, known or not; slot ``{thing}``.
        subjects: topic -> what to put there to ask for it.
        ask_unknown: asks for what is not known; slot ``{thing}``.
        things: nouns and names for it.
        unknown: the honest answer.
        openings: words before a request, such as a greeting, with the blank behind them.
    """

    code: str
    topics: tuple[Topic, ...]
    facts: dict[str, Fact]
    tell_both: Ways
    noted_both: Ways
    ask_both: Ways
    recall_both: Ways
    ask_sum: Ways
    sum_answer: Ways
    ask_large: Ways
    too_large: Ways
    systems: Ways
    persona: Ways
    ask_persona: Ways
    be_persona: Ways
    jobs: tuple[str, ...]
    ask_weather: Ways
    no_weather: Ways
    weather: Ways
    skies: dict[str, str]
    ask_calculation: Ways
    operators: dict[str, str]
    result: Ways
    tool_error: Ways
    errors: tuple[str, ...]
    ask_about: Ways
    subjects: dict[str, tuple[str, ...]]
    ask_unknown: Ways
    things: tuple[str, ...]
    unknown: Ways
    openings: tuple[str, ...]
