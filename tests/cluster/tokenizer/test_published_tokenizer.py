"""The published tokenizer gives the recorded ids and texts; runs where CHATGLM3_TOKENIZER points to its model file."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.errors import InvalidRequestError
from cluster.tokenizer.template import chat_input_ids, content_with_tools, message_ids, prefix_ids
from tests.cluster.tokenizer.recorded import PUBLISHED

FACTS = PUBLISHED["facts"]
TEMPLATE_TEXT = "<|user|>\n讲个故事\n<|assistant|>"


@pytest.mark.parametrize("case", PUBLISHED["encode"], ids=lambda case: ascii(case["text"][:30]))
def test_text_has_the_recorded_ids(published, case):
    """Every recorded text encodes, with and without prefix and role parsing, and decodes as recorded."""
    text, ids = case["text"], published.encode_text(case["text"])
    assert ids == case["sp_encode"] == case["encode_no_special"]
    assert [published.piece(token_id) for token_id in ids] == case["tokenize"]
    assert published.encode(text) == case["encode"]
    assert published.encode_with_roles(text) == case["encode_with_encode_special_tokens"]
    assert published.decode(ids) == case["decode_of_sp_encode"]
    assert message_ids(published, "user", text) == case["user_message"]


@pytest.mark.parametrize("case", PUBLISHED["single_messages"], ids=lambda case: ascii(case["message"][:30]))
def test_message_has_the_recorded_ids(published, case):
    """A message is its role, its metadata line and its content, encoded apart."""
    assert message_ids(published, case["role"], case["message"], case["metadata"]) == case["ids"]


@pytest.mark.parametrize("case", PUBLISHED["chat_inputs"], ids=lambda case: ascii(case["query"][:30]))
def test_chat_input_has_the_recorded_ids(published, case):
    """A query with its history, tools included, gives the recorded prompt."""
    ids = chat_input_ids(published, case["query"], case["history"] or [], case["role"])
    assert ids == case["input_ids"]
    assert len(ids) - 1 == case["position_ids"]


@pytest.mark.parametrize("case", PUBLISHED["decode"], ids=lambda case: str(case["ids"][:4]))
def test_ids_have_the_recorded_text(published, case):
    """Specials, bytes, broken characters and unknown ids show as recorded."""
    assert published.decode(case["ids"]) == case["decode"]
    assert [published.piece(token_id) for token_id in case["ids"]] == case["tokens"]


def test_special_ids_are_the_recorded_ones(published):
    """The nine specials follow the last piece, and the aliases name ids 0, 1 and 2."""
    commands = FACTS["special"] | FACTS["named"]
    assert {text: published.get_command(text) for text in commands} == commands
    assert (published.vocab_size, published.num_pieces) == (FACTS["vocab_size"], FACTS["sentencepiece_pieces"])
    assert (published.eos_id, published.pad_id) == (FACTS["eos"], FACTS["pad"])
    assert prefix_ids(published) == FACTS["prefix_tokens"]
    assert published.stop_ids == (2, 64795, 64797)


def test_names_the_recording_refuses_are_refused(published):
    """``<sop>`` and a role nobody knows are no specials."""
    for refused in ("<|tool|>", "<sop>"):
        with pytest.raises(InvalidRequestError, match="not a special token"):
            published.get_command(refused)
    with pytest.raises(InvalidRequestError, match="Unknown role 'tool'"):
        message_ids(published, "tool", "x")


def test_batch_is_padded_as_recorded(published):
    """Padding, mask and positions of a batch are the recorded ones: padding is on the left."""
    batch = [published.encode("你好"), published.encode("a longer english sentence here")]
    assert dataclasses.asdict(published.pad(batch)) == FACTS["batch_padding"]


def test_batch_is_padded_to_a_given_length(published):
    """A length beyond the longest row pads that row too."""
    batch = [published.encode("你好"), published.encode("b")]
    assert dataclasses.asdict(published.pad(batch, length=8)) == FACTS["batch_padding_max8"]


def test_role_texts_are_parsed_only_on_request(published):
    """The template's text stays ordinary pieces by default and becomes role ids with role parsing."""
    plain = [published.encode(text) for text in (TEMPLATE_TEXT, "x")]
    parsed = [prefix_ids(published) + published.encode_with_roles(text) for text in (TEMPLATE_TEXT, "x")]
    assert dataclasses.asdict(published.pad(plain)) == FACTS["batch_template_text_plain_tokenizer"]
    assert dataclasses.asdict(published.pad(parsed)) == FACTS["batch_template_text_encode_special_tokens"]


def test_pair_ends_with_the_end_id(published):
    """A pair is prefix, both texts and ``</s>``."""
    assert published.encode("первая", "вторая") == FACTS["sentence_pair"]["input_ids"]


def test_tools_are_written_as_recorded(published):
    """Tools become JSON with four blanks of indent, in order, with other scripts as they are."""
    tools = next(case for case in PUBLISHED["chat_inputs"] if case["query"] == "погода?")["history"][0]["tools"]
    assert content_with_tools("", tools) == "\n" + FACTS["tools_json_text"]
