"""What ``chat``, ``stream_chat`` and ``generate`` make of their arguments, wrong ones included."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from cluster.errors import CheckpointError, InvalidRequestError
from cluster.model import ChatGLM3ForConditionalGeneration
from tests.parity.recorded import DATA
from tests.parity.shell import shell, tokenizer

QUERY = "Hello"
GREEDY = {"do_sample": False, "max_new_tokens": 8}


def chat(model=None, **given):
    return (model or shell("tiny")).chat(tokenizer(), QUERY, **GREEDY | given)[0]


def last_of_stream(model=None, **given):
    *_, (text, _) = (model or shell("tiny")).stream_chat(tokenizer(), QUERY, **GREEDY | given)
    return text


METHODS = pytest.mark.parametrize("method", [chat, last_of_stream], ids=["chat", "stream_chat"])


@METHODS
def test_none_is_as_good_as_absent(method):
    """Stop ids and others that are None are what they are without the argument."""
    assert method(eos_token_id=None, repetition_penalty=None, num_return_sequences=None) == method()


@METHODS
def test_stop_ids_may_be_a_tensor_or_none_at_all(method):
    """The stop id is no part of the text; an empty list lets the answer run on."""
    two = method(eos_token_id=[], max_new_tokens=2)  # the third id is 152
    assert method(eos_token_id=torch.tensor([152, 2])) == method(eos_token_id=152) == two
    assert method(eos_token_id=[], max_new_tokens=40).startswith(method(max_new_tokens=40))


@METHODS
def test_the_models_generation_config_holds_where_the_call_says_nothing(method):
    """As in ``generate``: further options count, those with a default of the method's own do not."""
    model = copy.deepcopy(shell("tiny"))
    model.generation_config.repetition_penalty = 1.5
    model.generation_config.temperature = 0.1
    assert method(model) == method(repetition_penalty=1.5) != method()
    assert method(model, repetition_penalty=1.0) == method()


@METHODS
def test_a_generation_config_is_an_argument(method):
    """Its values count, and arguments beside it win."""
    config = GenerationConfig(repetition_penalty=1.5, max_new_tokens=3)
    assert method(generation_config=config) == method(repetition_penalty=1.5)
    assert method(generation_config=config, max_new_tokens=None) == method(repetition_penalty=1.5, max_new_tokens=3)


def test_a_folders_generation_config_is_read(tmp_path):
    """Saved settings come back; an old file that names every option is no obstacle to a stream."""
    model = copy.deepcopy(shell("tiny"))
    model.generation_config.repetition_penalty = 1.5
    model.save_pretrained(tmp_path)
    again = ChatGLM3ForConditionalGeneration.from_pretrained(tmp_path)
    assert last_of_stream(again) == last_of_stream(repetition_penalty=1.5)
    (tmp_path / "generation_config.json").write_text(
        '{"bos_token_id": 1, "num_beam_groups": 1, "length_penalty": 1.0, "output_scores": false, "max_length": 20, '
        '"transformers_version": "4.40.2", "bad_words_ids": null}'
    )
    again = ChatGLM3ForConditionalGeneration.from_pretrained(tmp_path)
    assert (again.generation_config.top_k, again.generation_config.eos_token_id) == (50, 2)
    assert last_of_stream(again) == last_of_stream()


@pytest.mark.parametrize("text", ["{", "[]", '{"max_new_tokens": -5}'])
def test_a_damaged_generation_config_is_named(tmp_path, text):
    """Before any weight is read into a model that would generate otherwise."""
    for file in (DATA / "tiny").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        ChatGLM3ForConditionalGeneration.from_pretrained(tmp_path)


def test_chat_takes_the_first_of_several_returned_sequences():
    """Pointless, as published, and no error."""
    assert chat(num_return_sequences=2, do_sample=True, top_k=1) == chat()


@METHODS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("repetition_penalty", -1.0),
        ("repetition_penalty", "much"),
        ("bad_words_ids", []),
        ("no_repeat_ngram_size", -1),
        ("min_p", 3.0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", 0),
        ("max_new_tokens", True),
        ("logits_processor", lambda _ids, scores: scores),
        ("stopping_criteria", lambda _ids, _scores: True),
    ],
)
def test_a_value_that_cannot_be_is_named(method, name, value):
    """One kind of error, with the argument's name."""
    with pytest.raises(InvalidRequestError) as caught:
        method(**{"do_sample": True, name: value})
    assert caught.value.param == name


@pytest.mark.parametrize(
    "given",
    [
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "high"},
        {"num_beam_groups": 2, "num_beams": 4},
        {"force_words_ids": [[5]], "num_beams": 2},
        {"constraints": [object()], "num_beams": 2},
        {"stop_strings": ["a"]},
        {"trust_remote_code": True},
        {"generation_config": GenerationConfig(penalty_alpha=0.6, top_k=4)},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_transformers_fetches_code_for_is_refused(given):
    """By name, before anything is fetched or computed."""
    with pytest.raises(InvalidRequestError, match="not supported"):
        shell("tiny").generate(input_ids=torch.tensor([[821, 823]]), **given)


@pytest.mark.parametrize("ids", [[[821, 823]], torch.tensor([821]), torch.zeros(1, 0, dtype=torch.int64)])
@pytest.mark.parametrize(
    "method",
    [
        shell("tiny"),
        lambda ids: shell("tiny").generate(ids),
        lambda ids: next(shell("tiny").stream_generate(ids)),
    ],
    ids=["forward", "generate", "stream_generate"],
)
def test_ids_of_another_shape_are_refused(method, ids):
    """A list, one row without a batch, no token at all."""
    with pytest.raises(InvalidRequestError) as caught:
        method(ids)
    assert caught.value.param == "input_ids"


@pytest.mark.parametrize(
    "method",
    [
        lambda past: shell("tiny")(torch.tensor([[821]]), past_key_values=past),
        lambda past: shell("tiny").generate(torch.tensor([[821]]), past_key_values=past),
        lambda past: next(shell("tiny").stream_generate(torch.tensor([[821]]), past_key_values=past)),
        lambda past: next(shell("tiny").stream_chat(tokenizer(), "x", past_key_values=past, legacy_cache=True)),
    ],
    ids=["forward", "generate", "stream_generate", "stream_chat"],
)
def test_caches_that_are_tuples_are_refused(method):
    """As the published class had them, and as transformers has none any more."""
    with pytest.raises(InvalidRequestError, match="DynamicCache") as caught:
        method(((torch.zeros(2, 1, 2, 16), torch.zeros(2, 1, 2, 16)),) * 3)
    assert caught.value.param == "past_key_values"


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (1, 1), (1, 1, 2, 2)])
def test_masks_of_another_shape_are_refused_even_without_padding(shape):
    """Rows of another batch, and columns that do not cover past and new tokens, which would shift positions."""
    cache = DynamicCache()
    shell("tiny")(torch.tensor([[821]]), past_key_values=cache)
    with pytest.raises(InvalidRequestError) as caught:
        shell("tiny")(torch.tensor([[823]]), past_key_values=cache, attention_mask=torch.ones(shape))
    assert caught.value.param == "attention_mask"


def _fail(_ids, _scores):
    raise ArithmeticError


def test_a_chat_that_fails_leaves_the_published_list_alone():
    """With ``legacy`` the caller's list gains the query when the answer is there, as published, and not before."""
    history = [{"role": "user", "content": "a"}]
    with pytest.raises(ArithmeticError):
        shell("tiny").chat(tokenizer(), "b", history, legacy=True, logits_processor=[_fail], **GREEDY)
    assert history == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_published_way_needs_a_list_to_add_to(legacy):
    """A tuple is a history all the same where nothing is added to it."""
    history = ({"role": "user", "content": "a"},)
    if not legacy:
        assert shell("tiny").chat(tokenizer(), "b", history, **GREEDY)
        return
    with pytest.raises(InvalidRequestError, match="legacy"):
        shell("tiny").chat(tokenizer(), "b", history, legacy=True, **GREEDY)


def test_process_response_takes_a_history_or_none_and_refuses_others():
    """Its answer's messages are behind copies of those given."""
    assert shell("tiny").process_response("\n x", None) == (
        "x",
        [{"role": "assistant", "metadata": "", "content": "x"}],
    )
    with pytest.raises(InvalidRequestError, match="history"):
        shell("tiny").process_response("x", ["y"])


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
def test_numbers_of_answers_and_beams_are_whole_and_positive(name, count):
    """Said in a sentence, not by the division that they would break."""
    ids = tokenizer().build_chat_input(QUERY).input_ids
    with pytest.raises(InvalidRequestError, match=rf"{name} is {count}; it must be a whole number"):
        shell("tiny").generate(ids, **{name: count})


def test_a_chat_without_beams_is_refused():
    """As by ``generate``, to which such a chat is handed."""
    with pytest.raises(InvalidRequestError, match="num_beams is 0"):
        chat(num_beams=0)
