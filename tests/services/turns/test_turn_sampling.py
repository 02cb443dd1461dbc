"""A caller's options as sampling parameters."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidRequestError
from cluster.protocol import Structure, StructureKind
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turns.events import GenerationOptions
from services.turns.sampling import choice_seed, sampling
from tests.support.turn_kit import TINY

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
LIMIT = 10
ANY_JSON = Structure(kind=StructureKind.JSON_OBJECT)


def params(**options):
    return sampling(GenerationOptions(**options), LIMIT, TOKENIZER)


def occurs(words: tuple[tuple[int, ...], ...], ids: list[int]) -> bool:
    return any(tuple(ids[i : i + len(word)]) == word for word in words for i in range(len(ids)))


def test_each_option_becomes_its_parameter():
    """Under the protocol's names; zeros and ones are choices, not absences."""
    numbers = {
        "min_p": 0.5,
        "repetition_penalty": 1.5,
        "presence_penalty": -2.0,
        "frequency_penalty": 2.0,
        "temperature": 0.0,
        "logprobs": 0,
    }
    made = params(**numbers, logit_bias={5: -1.5}, min_tokens=3, structure=None)
    assert {name: getattr(made, name) for name in numbers} == numbers
    assert (made.logit_bias, made.min_new_tokens, made.structure) == ({5: -1.5}, 3, None)


def test_stop_ids_of_the_caller_come_beside_the_models_own():
    """Each once; ``ignore_eos`` leaves the caller's."""
    eos = TOKENIZER.eos_id
    assert params(stop_token_ids=(7, eos, 7)).stop_ids == (*TOKENIZER.stop_ids, 7)
    assert params(stop_token_ids=(7, eos), ignore_eos=True).stop_ids == (7, eos)


@pytest.mark.parametrize("text", ["Hello there.", "there", "Well,there", "你好there", "\n there"])
def test_a_bad_word_is_found_behind_a_blank_and_behind_none(text):
    """Whatever stands in front of it, the ids of an ordinary spelling hold those of the word."""
    word = "there"
    assert occurs(params(bad_words=(word,)).bad_words, TOKENIZER.encode_text(text))


def test_a_bad_word_that_begins_with_a_blank_is_meant_so():
    """It is not found where no blank is."""
    words = params(bad_words=(" you",)).bad_words
    assert len(words) == 1
    assert TOKENIZER.decode([TOKENIZER.encode_text("a")[-1], *words[0]]).endswith(" you")


def test_bad_words_are_never_empty_and_each_is_there_once():
    """Words of one spelling only, and characters that the tokenizer writes as bytes, are fine."""
    words = params(bad_words=("a", "a", "😀", " ")).bad_words
    assert all(words)
    assert len(set(words)) == len(words)
    assert any(TOKENIZER.decode(word) == "😀" for word in words)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logit_bias": {TOKENIZER.vocab_size: 1.0}}, "logit_bias"),
        ({"stop_token_ids": (TOKENIZER.vocab_size,)}, "stop_token_ids"),
        ({"min_tokens": LIMIT + 1}, "min_tokens"),
        ({"min_tokens": 1, "structure": ANY_JSON}, "min_tokens"),
        ({"ignore_eos": True, "structure": ANY_JSON}, "ignore_eos"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options, param):
    """Ids that no token has, more tokens than there is room for, and an end that a structure forbids."""
    with pytest.raises(InvalidRequestError, match=f"^{param}: ") as raised:
        params(**options)
    assert raised.value.param == param


def test_seeds_of_several_answers():
    """The first answer's is the request's own; all differ, fit 63 bits, and are the same each time."""
    seeds = [choice_seed(42, choice) for choice in range(8)]
    assert seeds[0] == 42
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[1] == choice_seed(42, 1) != choice_seed(43, 1)
    assert seeds[1] == 4916366724007532381  # a moved answer must repeat its draws on another version, too
