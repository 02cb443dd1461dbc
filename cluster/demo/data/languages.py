"""The languages of the demo model, and the questions that it must not be taught in them."""

from __future__ import annotations

from functools import cache
from typing import Final

from cluster.demo.data.chinese import CHINESE
from cluster.demo.data.english import ENGLISH
from cluster.demo.data.russian import RUSSIAN

LANGUAGES: Final = {language.code: language for language in (ENGLISH, CHINESE, RUSSIAN)}


def is_held_out_question(question: str, code: str) -> bool:
    """Whether it is one of the evaluation's questions on a topic, which other taught words could happen to form."""
    return _plain(question) in _held_out_questions(code)


@cache
def _held_out_questions(code: str) -> frozenset[str]:
    return frozenset(_plain(phrase) for topic in LANGUAGES[code].topics for phrase in topic.ask.held_out)


def _plain(question: str) -> str:
    return question.rstrip("?.!？。！").lower()
