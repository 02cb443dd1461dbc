"""Ids, caches and tokenizers of another model are refused before anything is computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

from cluster.errors import InvalidRequestError
from cluster.model.generation.config import CACHE
from tests.parity.shell import shell, tokenizer

IDS = torch.tensor([[5, 6, 7]])
GREEDY = {"do_sample": False, "max_new_tokens": 2}
CALLS = {
    "forward": lambda model, ids, **given: model(ids, **given),
    "generate": lambda model, ids, **given: model.generate(ids, **given, **GREEDY),
    "stream_generate": lambda model, ids, **given: list(model.stream_generate(ids, **given, **GREEDY)),
}


CHAT = {
    "published stream_chat": lambda model, _, **given: list(
        model.stream_chat(tokenizer(), "x", legacy_cache=True, **given, **GREEDY)
    )
}


def cache_of(keys_shape, layers=3, dtype=torch.float32):
    """A cache that holds zeros."""
    made = DynamicCache()
    for layer in range(layers):
        made.update(torch.zeros(keys_shape, dtype=dtype), torch.zeros(keys_shape, dtype=dtype), layer)
    return made


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("wrong", [832, -1])
def test_an_id_without_a_row_is_refused(call, wrong):
    """As ids of a larger tokenizer are."""
    with pytest.raises(InvalidRequestError, match=rf"holds {wrong}, .* 0 to 831; .*tokenizer") as caught:
        call(shell("tiny"), torch.tensor([[5, wrong]]))
    assert caught.value.param == "input_ids"


@pytest.mark.parametrize("call", (CALLS | CHAT).values(), ids=CALLS | CHAT)
@pytest.mark.parametrize(
    ("keys_shape", "layers", "dtype"),
    [
        ((1, 3, 2, 16), 3, torch.float32),
        ((1, 2, 2, 12), 3, torch.float32),
        ((2, 2, 2, 16), 3, torch.float32),
        ((1, 2, 2, 16), 2, torch.float32),
        ((1, 2, 2, 16), 3, torch.bfloat16),
    ],
)
def test_a_cache_of_another_model_or_batch_is_refused(call, keys_shape, layers, dtype):
    """By groups, width of a head, rows, layers and dtype, before anything is computed."""
    wanted = r"past_key_values holds .* this model and batch need 3 of \[1, 2, 2, 16\] in torch.float32"
    with pytest.raises(InvalidRequestError, match=wanted) as caught:
        call(shell("tiny"), IDS, past_key_values=cache_of(keys_shape, layers, dtype))
    assert caught.value.param == "past_key_values"


def test_a_cache_of_the_model_and_batch_goes_on():
    """With rows of its own."""
    held = shell("tiny")(IDS.expand(2, -1), past_key_values=cache_of((2, 2, 4, 16)))[CACHE]
    assert held.get_seq_length() == 7


def test_a_chats_cache_of_another_model_is_refused(monkeypatch):
    """Though its history is the chat's."""
    *_, (_, history, cache) = shell("tiny").stream_chat(tokenizer(), "Hello", return_past_key_values=True, **GREEDY)
    other = replace(shell("tiny").shape, num_layers=4)
    monkeypatch.setattr(shell("tiny"), "shape", other)
    with pytest.raises(InvalidRequestError, match="holds 3 layers"):
        list(shell("tiny").stream_chat(tokenizer(), "Go", history, past_key_values=cache, **GREEDY))


@pytest.mark.parametrize("wrong", [None, object(), "tiny", lambda text: text])
def test_what_is_no_tokenizer_is_refused(wrong):
    """By both ways to chat."""
    for call in (shell("tiny").chat, lambda *given: list(shell("tiny").stream_chat(*given))):
        with pytest.raises(InvalidRequestError, match="ChatGLM3Tokenizer") as caught:
            call(wrong, "Hello")
        assert caught.value.param == "tokenizer"
