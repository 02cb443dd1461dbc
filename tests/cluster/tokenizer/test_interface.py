"""The tokenizer as transformers' users call it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidRequestError
from cluster.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.template import chat_input_ids
from tests.cluster.tokenizer.recorded import TINY

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
texts = st.text(max_size=12) | st.sampled_from(["<|system|>", "[gMASK]sop", "</s>", "<|assistant|>\n"])


def test_one_text_is_ids_mask_and_positions():
    """Lists for one text, tensors with a batch axis where they are asked for."""
    one = TOKENIZER("Hello")
    assert one["input_ids"] == TOKENIZER.encode("Hello") == [821, 823, *TOKENIZER.encode_text("Hello")]
    assert one.attention_mask == [1] * len(one.input_ids)
    assert one.position_ids == list(range(len(one.input_ids)))
    tensors = TOKENIZER("Hello", return_tensors="pt").to("cpu")
    assert tensors.input_ids.tolist() == [one.input_ids]
    assert {**tensors}.keys() == {"input_ids", "attention_mask", "position_ids"}
    assert TOKENIZER.encode("Hello", return_tensors="pt").tolist() == [one.input_ids]


def test_a_pair_ends_with_the_end_id():
    """As two arguments, or as a tuple in a batch."""
    pair = TOKENIZER("a", "b").input_ids
    assert pair == [821, 823, *TOKENIZER.encode_text("a"), *TOKENIZER.encode_text("b"), 2]
    assert TOKENIZER([("a", "b")]).input_ids == [pair]


def test_a_batch_is_padded_on_the_left():
    """Id 0, mask 0, position 0; to the longest row or to a length."""
    batch = TOKENIZER(["Hello there", "a"], padding=True, return_tensors="pt")
    assert batch.input_ids.dtype is torch.int64
    assert batch.attention_mask[1].tolist() == sorted(batch.attention_mask[1].tolist())
    assert TOKENIZER(["a"], padding="max_length", max_length=8).attention_mask[0].count(0) == 8 - 3


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda: TOKENIZER(["a", "a b c"], return_tensors="pt"), "padding"),
        (lambda: TOKENIZER("a", return_tensors="tf"), "return_tensors"),
        (lambda: TOKENIZER(5), "text"),
        (lambda: TOKENIZER([5]), "text"),
        (lambda: TOKENIZER(["a"], ["b", "c"]), "text_pair"),
        (lambda: TOKENIZER("a", padding="max_length"), "max_length"),
        (lambda: TOKENIZER("a", padding="right"), "padding"),
        (lambda: ChatGLM3Tokenizer.from_pretrained(TINY, padding_side="right"), "padding_side"),
        (lambda: TOKENIZER("a", padding_side="right"), "padding_side"),
        (lambda: TOKENIZER("a", truncation="only_first", max_length=4), "truncation"),
        (lambda: TOKENIZER("a", truncation=True), "max_length"),
        (lambda: TOKENIZER("a", pad_to_multiple_of=8), "pad_to_multiple_of"),
        (lambda: TOKENIZER.encode("a", padding="max_length"), "padding"),
        (lambda: TOKENIZER([("a", "b", "c")]), "text"),
        (lambda: TOKENIZER("a", 5), "text"),
        (lambda: TOKENIZER.decode([[1], [2]]), "ids"),
        (lambda: TOKENIZER.decode(None), "ids"),
        (lambda: TOKENIZER.pad({"input_ids": [[1]]}), "batch"),
        (lambda: TOKENIZER.build_chat_input(5), "text"),
        (lambda: TOKENIZER.build_chat_input("q", "history"), "history"),
        (lambda: TOKENIZER.build_chat_input("q", [("user", "a")]), "history"),
        (lambda: TOKENIZER.build_chat_input("q", {"role": "user", "content": "a"}), "history"),
    ],
)
def test_a_wrong_argument_is_named(call, param):
    """One typed error each."""
    with pytest.raises(InvalidRequestError) as caught:
        call()
    assert caught.value.param == param


def test_truncation_keeps_the_first_ids():
    """As its side says; not where it is off, and a pair loses the end of its longer text, never its ``</s>``."""
    assert TOKENIZER.truncation_side == "right"
    whole = TOKENIZER.encode("a b c d e f")
    assert TOKENIZER.encode("a b c d e f", truncation=True, max_length=4) == whole[:4]
    assert TOKENIZER("a b c d e f", truncation="do_not_truncate", max_length=4).input_ids == whole
    first, second = TOKENIZER.encode_text("a b c d e f"), TOKENIZER.encode_text("g h")
    pair = TOKENIZER("a b c d e f", "g h", truncation="longest_first", max_length=len(second) + 6).input_ids
    assert pair == [*whole[:2], *first[:3], *second, 2]
    bare = TOKENIZER("g h", "g h", truncation=True, max_length=3, add_special_tokens=False).input_ids
    assert bare == [*second[:2], *second[:1]]


def test_decoding_takes_ids_of_every_kind():
    """An id, a list, a tensor, a batch of one; specials are shown unless skipped."""
    ids = [821, 823, *TOKENIZER.encode_text("Hi"), 2]
    assert TOKENIZER.decode(ids) == "[gMASK]sop Hi"
    assert TOKENIZER.decode(torch.tensor([ids]), skip_special_tokens=True) == "Hi"
    assert TOKENIZER.decode(ids[2]) == TOKENIZER.decode([ids[2]])
    assert TOKENIZER.decode(list(torch.tensor(ids))) == TOKENIZER.decode(list(np.array(ids))) == TOKENIZER.decode(ids)
    assert TOKENIZER.batch_decode(torch.tensor([ids, ids]), skip_special_tokens=True) == ["Hi", "Hi"]


def test_a_chats_input_is_the_templates():
    """Tensors that a model takes as they are."""
    history = [{"role": "user", "content": "a"}]
    inputs = TOKENIZER.build_chat_input("q", history, "observation")
    assert inputs.input_ids.tolist() == [chat_input_ids(TOKENIZER, "q", history, "observation")]
    assert TOKENIZER.build_single_message("user", "", "hi")[0] == TOKENIZER.get_command("<|user|>")
    with pytest.raises(InvalidRequestError, match="build_chat_input"):
        TOKENIZER.apply_chat_template([])


def test_special_attributes_are_the_published_ones():
    """What streamers and scripts look at."""
    assert (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == (1, 2, 0)
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token, TOKENIZER.padding_side) == ("</s>", "<unk>", "left")
    assert len(TOKENIZER) == TOKENIZER.vocab_size == 829
    assert TOKENIZER.convert_tokens_to_ids(["[gMASK]", "▁", "</s>", "no such piece"]) == [821, 585, 2, 0]
    assert TOKENIZER.convert_ids_to_tokens([821, 585]) == ["[gMASK]", "▁"]
    assert TOKENIZER.convert_tokens_to_string(TOKENIZER.tokenize("Hi you")) == "Hi you"
    assert TOKENIZER.get_vocab()["<|user|>"] == 826
    assert max(TOKENIZER.all_special_ids) == 828


def test_trusted_text_may_name_roles():
    """Only where it was asked for."""
    trusting = ChatGLM3Tokenizer.from_pretrained(TINY, encode_special_tokens=True)
    assert 826 in trusting("<|user|>\nhi").input_ids
    assert 826 not in TOKENIZER("<|user|>\nhi").input_ids


def test_it_pickles():
    """For data loaders with workers, and goes on trusting text where it did."""
    trusting = ChatGLM3Tokenizer.from_pretrained(TINY, encode_special_tokens=True)
    for held in (TOKENIZER, trusting):
        again = pickle.loads(pickle.dumps(held))  # noqa: S301  # our own
        assert again("<|user|>").input_ids == held("<|user|>").input_ids
        assert again.name_or_path == held.name_or_path == str(TINY)


@given(texts, st.none() | texts)
def test_no_text_becomes_a_special_id(text, pair):
    """Behind ``[gMASK] sop`` and before ``</s>`` there are pieces only."""
    ids = TOKENIZER(text, pair).input_ids[2:]
    assert all(
        2 < token_id < TOKENIZER.num_pieces or token_id == 0 for token_id in (ids[:-1] if pair is not None else ids)
    )


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "observation"]), texts), max_size=5), texts)
def test_the_common_prefix_of_turns_never_shrinks(items, query):
    """Each prompt begins with the one before, its last ``<|assistant|>`` included once it was answered."""
    history = [{"role": role, "content": content} for role, content in items]
    before = chat_input_ids(TOKENIZER, query, history)
    answered = [*history, {"role": "user", "content": query}, {"role": "assistant", "metadata": "", "content": "x"}]
    after = chat_input_ids(TOKENIZER, "next", answered)
    assert after[: len(before)] == before


def test_importing_it_imports_no_torch():
    """The serving side's text processes stay small."""
    code = "import sys; from cluster.tokenizer import ChatGLM3Tokenizer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
