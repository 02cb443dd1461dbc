"""The evaluation judges answers as it says, and the model that comes with the package passes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.demo import CHECKPOINT
from cluster.demo.card import CARD, sha256, table
from cluster.demo.data.dialogue import Message, Turn
from cluster.demo.evaluation import GREEDY, SAMPLED, TARGETS, Score, evaluate, verdicts
from cluster.demo.play import Answer
from cluster.model.checkpoint import inspect_checkpoint
from cluster.model.random_checkpoint import write_random_checkpoint
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(CHECKPOINT)
PACKAGE_LIMIT = 6_000_000  # bytes


def answered(kind: str, want: Message, said: Message, *needed: str, language: str = "en", ended: bool = True) -> Answer:
    """An answer, encoded as the template would."""
    ids = TOKENIZER.encode_text(f"{said.metadata}\n") + TOKENIZER.encode_text(said.content)
    return Answer(Turn(kind, language, Message("user", "?"), want, needed), ids, said, ended)


def says(text: str, metadata: str = "") -> Message:
    """What the model says."""
    return Message("assistant", text, metadata)


def judge(measure: str, answer: Answer) -> list[bool]:
    """Verdicts of one measure on one answer; none when it is not about it."""
    return [right for _, right in verdicts(measure, [answer], TOKENIZER)]


@pytest.mark.parametrize(("said", "right"), [("Your name is Zoe.", True), ("Zoe!", True), ("Your name is Joe.", False)])
def test_a_recall_is_right_when_it_holds_the_value(said: str, right: bool) -> None:  # noqa: FBT001
    """However it is worded."""
    answer = answered("recall", says("Your name is Zoe."), says(said), "Zoe")
    assert judge("recall over 6 turns", answer) == [right]
    assert judge("observation used", answer) == []


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (says("tool_call(city='Oslo')", "get_weather"), True),
        (says("tool_call(city='Oslo')", "weather"), False),
        (says("tool_call(place='Oslo')", "get_weather"), False),
        (says("tool_call(city='oslo')", "get_weather"), False),
        (says("It is sunny in Oslo."), False),
    ],
)
def test_a_call_is_right_when_every_letter_is(said: Message, right: bool) -> None:  # noqa: FBT001
    """Name, parameter and argument."""
    answer = answered("tool", says("tool_call(city='Oslo')", "get_weather"), said, "tool_call(city='Oslo')")
    assert judge("tool name and arguments", answer) == [right]


@pytest.mark.parametrize(
    ("language", "said", "right"),
    [
        ("en", "Fine, thanks.", True),
        ("en", "你好。", False),
        ("zh", "你好，Anna。", True),
        ("zh", "Hello.", False),
        ("zh", "Привет.", False),
        ("ru", "Привет.", True),
        ("ru", "Hello.", False),
        ("ru", "4 + 5 = 9.", True),
    ],
)
def test_the_language_is_seen_by_its_script(language: str, said: str, right: bool) -> None:  # noqa: FBT001
    """Numbers and foreign terms beside it do not count."""
    answer = answered("greeting", says(said), says(said), language=language)
    assert judge("answers in the language of the question", answer) == [right]


def test_a_foreign_name_that_was_asked_for_is_no_foreign_language() -> None:
    """It is the caller's own."""
    answer = answered("recall", says(""), says("Your name is 张伟."), "张伟")
    assert judge("answers in the language of the question", answer) == [True]


def test_an_answer_without_an_end_and_one_in_odd_pieces_are_seen() -> None:
    """Whatever it says."""
    assert judge("ends by itself", answered("sum", says("1"), says("1"), ended=False)) == [False]
    whole = answered("sum", says("Hello"), says("Hello"))
    assert judge("re-encodes to the same ids", whole) == [True]
    odd = Answer(whole.turn, [*whole.ids[:2], *(byte + 3 for byte in b" Hello")], whole.message, ended=True)
    assert judge("re-encodes to the same ids", odd) == [False]


def test_random_weights_pass_no_measure_of_content(tmp_path: Path) -> None:
    """So a high score means something."""
    write_random_checkpoint(tmp_path / "random", "demo")
    scores, wrong = evaluate(tmp_path / "random", per_language=1, temperature=GREEDY)
    assert not any(score.right for score in scores if score.measure in list(TARGETS)[:7])
    assert wrong


def test_the_table_shows_every_mode() -> None:
    """One row a measure."""
    scores = [Score("ends by itself", 99, 100)]
    assert "| ends by itself | 99% | 99.0% of 100 | 99.0% of 100 |" in table({"greedy": scores, "sampled": scores})


def test_the_packaged_model_fits_into_the_package_and_can_be_served() -> None:
    """With its card, which names the very files beside it."""
    assert inspect_checkpoint(CHECKPOINT).problem == ""
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= PACKAGE_LIMIT
    named = dict(re.findall(r"`([\w.]+)`: sha256 `(\w+)`", (CHECKPOINT / CARD).read_text(encoding="utf-8")))
    assert named == {name: sha256(CHECKPOINT / name) for name in named}
    assert "model.safetensors" in named


def test_the_packaged_model_does_what_its_card_says() -> None:
    """A short greedy run over all languages: no measure misses its target by more than one answer."""
    scores, wrong = evaluate(CHECKPOINT, per_language=8, temperature=GREEDY)
    for score in scores:
        assert score.right + 1 >= TARGETS[score.measure] * score.total, (score, wrong)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("temperature", [GREEDY, SAMPLED])
def test_the_packaged_model_reaches_every_target(temperature: float) -> None:
    """Hundreds of dialogues that were never taught, greedy and sampled."""
    scores, wrong = evaluate(CHECKPOINT, per_language=100, temperature=temperature)
    assert all(score.passed for score in scores), ([score for score in scores if not score.passed], wrong)
