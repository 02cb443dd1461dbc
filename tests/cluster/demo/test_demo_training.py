"""From conversations to weights: what is learnt, how it is batched, and that equal recipes give equal files."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from cluster.demo.batches import batches
from cluster.demo.data.dialogue import Dialogue
from cluster.demo.data.dialogues import training_dialogues
from cluster.demo.data.languages import LANGUAGES
from cluster.demo.data.writer import Writer
from cluster.demo.encoding import encode
from cluster.demo.training import SHAPE, Progress, Recipe, train
from cluster.demo.vocabulary import make_tokenizer
from cluster.model.loader import load_model
from cluster.model.writing import write_config
from cluster.tokenizer.template import chat_input_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3Tokenizer:
    """The demo model's, made anew."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), seed=0)


def some(count: int) -> list[Dialogue]:
    """Conversations of the training data."""
    return list(itertools.islice(training_dialogues(random.Random(2)), count))


def test_the_ids_are_those_of_the_chat_template(tokenizer: ChatGLM3Tokenizer) -> None:
    """Every prompt that a client could send in mid-conversation is a prefix of them, ending where learning begins."""
    for dialogue in some(60):
        example = encode(tokenizer, dialogue, 10_000)
        history = [{"role": "system", "content": dialogue.system.content}] if dialogue.system else []
        for turn in dialogue.turns:
            prompt = chat_input_ids(tokenizer, turn.message.content, history, turn.message.role)
            assert example.ids[: len(prompt)] == prompt
            assert not example.learnt[len(prompt) - 1]
            assert example.learnt[len(prompt)]
            answer = {"role": "assistant", "content": turn.answer.content, "metadata": turn.answer.metadata}
            history += [{"role": turn.message.role, "content": turn.message.content}, answer]


def test_only_answers_and_their_ends_are_learnt(tokenizer: ChatGLM3Tokenizer) -> None:
    """A tool call ends with the observation's id, everything else with the user's."""
    for dialogue in some(60):
        example = encode(tokenizer, dialogue, 10_000)
        runs = [
            [token for token, _ in run]
            for learnt, run in itertools.groupby(
                zip(example.ids, example.learnt, strict=True), key=lambda pair: pair[1]
            )
            if learnt
        ]
        assert len(runs) == len(dialogue.turns)
        for run, turn in zip(runs, dialogue.turns, strict=True):
            header = tokenizer.encode_text(f"{turn.answer.metadata}\n")
            end = tokenizer.role_id("observation" if turn.answer.metadata else "user")
            assert run == [*header, *tokenizer.encode_text(turn.answer.content), end]


def test_a_long_conversation_is_cut_between_turns(tokenizer: ChatGLM3Tokenizer) -> None:
    """Its last answer is whole and ends."""
    writer = Writer(random.Random(0), LANGUAGES["en"])
    for _ in range(80):
        writer.topic()
    example = encode(tokenizer, writer.dialogue, 500)
    assert 400 < len(example.ids) <= 500
    assert example.ids[-1] == tokenizer.role_id("user")
    assert example.learnt[-1]


def test_a_value_has_the_same_pieces_wherever_it_stands(tokenizer: ChatGLM3Tokenizer) -> None:
    """Behind a blank, a quote, a bracket or a Chinese character: else it could not be copied."""
    for value in ("Reykjavik", "Zorblat", "Новгород", "XK-42", "7391", "Anna"):
        alone = tokenizer.encode_text(f"({value})")[2:-1]
        for text in (f"in {value}.", f"'{value}'", f"叫{value}。", f"«{value}»", f"city='{value}')"):
            ids = tokenizer.encode_text(text)
            assert any(ids[start : start + len(alone)] == alone for start in range(len(ids))), (value, text)


def test_batches_predict_what_is_learnt_and_nothing_else(tokenizer: ChatGLM3Tokenizer) -> None:
    """Each target is the id behind its place, and no place lies in the padding."""
    for batch in itertools.islice(batches(tokenizer, 0, max_tokens=2048, context=512), 20):
        rows, width = batch.token_ids.shape
        assert rows * width <= 2048
        assert batch.targets.equal(batch.token_ids.flatten()[batch.predicting + 1])
        assert (batch.predicting % width < width - 1).all()
        assert (batch.targets != tokenizer.pad_id).all()


def trained(folder: Path, steps: int) -> list[Progress]:
    """A short training into ``folder``."""
    folder.mkdir()
    write_config(folder, SHAPE, "short")
    progress: list[Progress] = []
    train(folder, Recipe(steps=steps, batch_tokens=512, warmup=2), CPU, progress.append)
    return progress


def test_a_short_training_learns_and_writes_a_checkpoint_that_loads(tmp_path: Path) -> None:
    """The loss falls from that of a guess."""
    progress = trained(tmp_path / "model", steps=25)
    assert [step.step for step in progress] == list(range(1, 26))
    assert 7 < progress[0].loss < 8.5
    assert progress[-1].loss < progress[0].loss - 2
    model = load_model(tmp_path / "model", torch.float32, "cpu")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_equal_recipes_give_equal_files(tmp_path: Path) -> None:
    """On one machine: tokenizer and weights, byte by byte."""
    for name in ("first", "second"):
        trained(tmp_path / name, steps=3)
    for file in ("tokenizer.model", "model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_the_rate_rises_to_its_peak_and_falls() -> None:
    """A warmup, then a cosine that ends at a twentieth."""
    recipe = Recipe(steps=1000, learning_rate=1.0, warmup=100)
    assert recipe.rate(0) == pytest.approx(0.01)
    assert recipe.rate(99) == recipe.rate(100) == 1.0
    assert recipe.rate(999) == pytest.approx(0.05, abs=1e-4)
