"""The demo model's data: three languages of one shape, and nothing of the evaluation in what is taught."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re

import pytest

from cluster.demo.data.dialogue import Dialogue
from cluster.demo.data.dialogues import training_dialogues
from cluster.demo.data.languages import LANGUAGES
from cluster.demo.data.phrases import SLOT, Fact, Language, Ways, topics, ways
from cluster.demo.data.words import Words, is_held_out
from cluster.demo.data.writer import FACTS, LARGEST_ADDEND, Writer

ENGLISH = LANGUAGES["en"]


def taught(count: int, seed: int = 0) -> list[Dialogue]:
    """Conversations of the training data."""
    return list(itertools.islice(training_dialogues(random.Random(seed)), count))


def all_ways(language: Language) -> dict[str, Ways]:
    """Every set of phrasings by name, topics and facts included."""
    found = {field.name: getattr(language, field.name) for field in dataclasses.fields(language)}
    found |= {
        f"topic {topic.name} {part}": getattr(topic, part) for topic in language.topics for part in ("ask", "answer")
    }
    parts = [field.name for field in dataclasses.fields(Fact)]
    found |= {f"fact {kind} {part}": getattr(language.facts[kind], part) for kind in FACTS for part in parts}
    return {name: value for name, value in found.items() if isinstance(value, Ways)}


def test_phrasings_behind_a_tilde_are_held_out() -> None:
    """And blanks around a bar do not matter."""
    assert ways("a {x}| b |~c") == Ways(("a {x}", "b"), ("c",))


def test_topics_are_three_lines_each() -> None:
    """Name, questions, answers."""
    (topic,) = topics("# tea\n? Tea?|~Some tea?\n! Yes.\n")
    assert (topic.name, topic.ask, topic.answer) == ("tea", Ways(("Tea?",), ("Some tea?",)), Ways(("Yes.",)))


@pytest.mark.parametrize("code", ["zh", "ru"])
def test_every_language_says_what_english_says(code: str) -> None:
    """The same topics, slots, and held-out phrasings wherever English has some."""
    language = LANGUAGES[code]
    assert [topic.name for topic in language.topics] == [topic.name for topic in ENGLISH.topics]
    assert language.skies.keys() == ENGLISH.skies.keys()
    assert language.subjects.keys() == ENGLISH.subjects.keys()
    assert language.subjects.keys() <= {topic.name for topic in language.topics}
    english, other = all_ways(ENGLISH), all_ways(language)
    assert english.keys() == other.keys()
    for name, phrases in english.items():
        assert bool(phrases.held_out) == bool(other[name].held_out), name
        slots = {slot for phrase in phrases.taught for slot in SLOT.findall(phrase)}
        for phrase in (*other[name].taught, *other[name].held_out):
            assert set(SLOT.findall(phrase)) == slots, phrase


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_phrasing_is_both_taught_and_held_out(code: str) -> None:
    """Nor said twice among those of one meaning."""
    for name, phrases in all_ways(LANGUAGES[code]).items():
        both = [phrase.rstrip("?.!？。！").lower() for phrase in phrases.held_out]
        known = {phrase.rstrip("?.!？。！").lower() for phrase in phrases.taught}
        assert not known.intersection(both), name


def test_no_question_of_the_evaluation_is_taught() -> None:
    """Not even where other words happen to form it."""
    asked = {turn.message.content.rstrip("?.!？。！").lower() for dialogue in taught(3000) for turn in dialogue.turns}
    for language in LANGUAGES.values():
        for topic in language.topics:
            assert not asked & {phrase.rstrip("?.!？。！").lower() for phrase in topic.ask.held_out}


def test_values_are_of_one_side_only() -> None:
    """What is taught and what is asked in the evaluation never meet."""
    for held_out in (False, True):
        words = Words(random.Random(3), held_out=held_out)
        values = [words.value(kind, code) for kind in FACTS for code in LANGUAGES for _ in range(50)]
        assert {is_held_out(value) for value in values} == {held_out}
        assert len(set(values)) > len(values) / 2


def test_equal_seeds_give_equal_conversations() -> None:
    """And others give others."""
    assert taught(20, seed=4) == taught(20, seed=4)
    assert taught(20, seed=4) != taught(20, seed=5)


def test_the_answer_to_a_recall_is_what_was_told_last() -> None:
    """Over any number of turns between, in any language."""
    distances = set()
    for dialogue in taught(1500):
        for place, turn in enumerate(dialogue.turns):
            if turn.kind == "recall":
                earlier = dialogue.turns[:place]
                for value in turn.needed:
                    assert value in turn.answer.content
                    told = [
                        before for before, other in enumerate(earlier) if other.kind == "tell" and value in other.needed
                    ]
                    assert told
                    distances.add(place - told[-1])
    assert set(range(1, 7)) <= distances


def test_a_recall_of_nothing_told_is_answered_so() -> None:
    """No value is made up for it."""
    untold = [turn for dialogue in taught(300) for turn in dialogue.turns if turn.kind == "untold"]
    assert untold
    answers = {
        answer for language in LANGUAGES.values() for fact in language.facts.values() for answer in fact.untold.taught
    }
    assert {turn.answer.content for turn in untold} <= answers


def test_sums_are_right_and_pairs_of_the_evaluation_are_never_taught() -> None:
    """In the range that the model claims."""
    for held_out in (False, True):
        writer = Writer(random.Random(1), ENGLISH, held_out=held_out)
        for _ in range(300):
            writer.add()
        for turn in writer.dialogue.turns:
            a, b, c = map(int, re.findall(r"\d+", turn.answer.content))
            assert a + b == c
            assert max(a, b) <= LARGEST_ADDEND
            assert is_held_out(f"{a} + {b}") is held_out


def test_a_tool_is_called_by_the_name_and_parameter_of_its_description() -> None:
    """With the place that was asked for, and an answer from the result."""
    for seed in range(40):
        writer = Writer(random.Random(seed), ENGLISH)
        writer.offer_tools()
        if writer.tools.weather is None:
            continue
        writer.weather()
        call, seen = writer.dialogue.turns
        schema = next(schema for schema in writer.tools.schemas if schema["name"] == call.answer.metadata)
        parameter = next(iter(schema["parameters"]["properties"]))
        (argument,) = re.findall(rf"tool_call\({parameter}='(.*)'\)", call.answer.content)
        assert argument in call.message.content
        assert seen.message.role == "observation"
        assert all(part in seen.answer.content for part in seen.needed)


def test_most_names_of_tools_are_made_up() -> None:
    """So that a name can only be copied, never guessed; none is shared with the evaluation."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for held_out, seed in itertools.product(names, range(150)):
        writer = Writer(random.Random(seed), ENGLISH, held_out=held_out)
        writer.offer_tools()
        names[held_out] |= {tool.name for tool in (writer.tools.weather, writer.tools.calculator) if tool}
    assert len(names[False]) > 100
    assert not names[False] & names[True]


def test_without_a_weather_tool_no_call_is_taught() -> None:
    """The honest answer is."""
    writer = Writer(random.Random(0), ENGLISH)
    writer.weather()
    (turn,) = writer.dialogue.turns
    assert turn.answer.metadata == ""
    assert turn.answer.content in ENGLISH.no_weather.taught


def test_a_persona_introduces_itself() -> None:
    """By the name and the job of its system message."""
    writer = Writer(random.Random(0), ENGLISH)
    writer.be_persona()
    writer.who()
    assert writer.dialogue.system is not None
    assert all(part in writer.dialogue.system.content for part in writer.dialogue.turns[0].needed)
