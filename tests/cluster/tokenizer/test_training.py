"""The project's own tokenizers follow the published model's rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigurationError
from cluster.tokenizer.corpus import sentences
from cluster.tokenizer.template import chat_input_ids
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.training import MIN_PIECES, PUBLISHED_PIECES, train_tokenizer
from tests.cluster.tokenizer.recorded import PUBLISHED


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> ChatGLM3Tokenizer:
    return train_tokenizer(tmp_path_factory.mktemp("trained"))


def test_folder_loads_as_a_checkpoint(tmp_path):
    """The files lie under the names a checkpoint has, and no code is named in them."""
    tokenizer = train_tokenizer(tmp_path / "new" / "folder")
    assert ChatGLM3Tokenizer.from_pretrained(tmp_path / "new" / "folder").fingerprint == tokenizer.fingerprint
    config = json.loads((tmp_path / "new" / "folder" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "ChatGLMTokenizer"
    assert "auto_map" not in config


def test_specials_follow_the_trained_pieces(trained):
    """820 pieces by default; prefix and stop ids are those of the recorded tiny model."""
    assert (trained.num_pieces, trained.vocab_size) == (820, 829)
    assert trained.stop_ids == (2, 826, 828)
    assert chat_input_ids(trained, "", [])[:3] == [821, 823, 826]


@given(text=st.text(max_size=40).filter(lambda text: "\u2581" not in text))
def test_any_text_survives_the_round_trip(trained, text):
    """Every text can be written with the trained pieces and read back, and none becomes a special id."""
    ids = trained.encode_text(text)
    assert trained.decode(ids) == text
    assert all(3 <= token_id < trained.num_pieces for token_id in ids)


@pytest.mark.parametrize("case", PUBLISHED["encode"], ids=lambda case: ascii(case["text"][:30]))
def test_recorded_text_decodes_as_with_the_published_model(trained, case):
    """The recorded texts come back exactly as they do from the published model."""
    assert trained.decode(trained.encode_text(case["text"])) == case["decode_of_sp_encode"]


@pytest.mark.parametrize("character", ["😀", "한", "ก", "\x00", "鸞"])
def test_character_it_never_saw_becomes_bytes(trained, character):
    """Byte fallback writes an unseen character as its UTF-8 bytes, id 3 for byte 0."""
    assert trained.encode_text(character)[1:] == [byte + 3 for byte in character.encode()]


@pytest.mark.parametrize(
    "text", ["hello the engineer", "你好，面包不错。", "Привет инженер", "return value", "1234567890"]
)
def test_every_script_has_pieces(trained, text):
    """English, Chinese, Russian, code and digits are mostly pieces, not bytes."""
    ids = trained.encode_text(text)
    assert sum(trained.byte(token_id) is not None for token_id in ids) <= len(ids) / 4
    assert len(ids) <= len(text) + 1


def test_digits_stand_alone(trained):
    """As in the published model a number is one piece a digit."""
    assert len(trained.encode_text("907")) == 4


def test_training_is_deterministic(tmp_path):
    """Equal arguments give equal bytes; another seed gives other pieces."""
    first, again = train_tokenizer(tmp_path / "a", 600, seed=7), train_tokenizer(tmp_path / "b", 600, seed=7)
    assert first.fingerprint == again.fingerprint
    assert train_tokenizer(tmp_path / "c", 600, seed=8).fingerprint != first.fingerprint


@pytest.mark.parametrize("vocab_size", [MIN_PIECES, 1000, 1001, 5000])
def test_vocabulary_has_the_size_asked_for(tmp_path, vocab_size):
    """Small and large vocabularies are filled exactly, with the same rules."""
    tokenizer = train_tokenizer(tmp_path, vocab_size)
    assert tokenizer.num_pieces == vocab_size
    assert tokenizer.decode(tokenizer.encode_text(" Hello 你好 😀\n")) == " Hello 你好 😀\n"


def test_published_size_has_the_published_special_ids(tmp_path):
    """With as many pieces as the published model, every special has its published id."""
    tokenizer = train_tokenizer(tmp_path, PUBLISHED_PIECES)
    commands = PUBLISHED["facts"]["special"] | PUBLISHED["facts"]["named"]
    assert {text: tokenizer.get_command(text) for text in commands} == commands


@pytest.mark.parametrize("vocab_size", [0, MIN_PIECES - 1, PUBLISHED_PIECES + 1])
def test_impossible_size_is_refused(tmp_path, vocab_size):
    """A size out of range is refused with the range, and nothing is written."""
    with pytest.raises(ConfigurationError, match=f"{MIN_PIECES} to {PUBLISHED_PIECES} pieces, not {vocab_size}"):
        train_tokenizer(tmp_path / "out", vocab_size)
    assert not (tmp_path / "out").exists()


def test_training_is_silent(tmp_path, capfd):
    """SentencePiece's trainer writes no progress to the terminal."""
    train_tokenizer(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_longer_corpus_begins_with_the_shorter():
    """The sentences of a seed are one stream, and a seed of its own has its own."""
    assert list(sentences(3, 40))[:25] == list(sentences(3, 25))
    assert list(sentences(3, 25)) != list(sentences(4, 25))
