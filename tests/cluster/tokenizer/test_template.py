"""Messages become ids by the published template, shown on the committed tokenizer's recorded conversations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InvalidRequestError
from cluster.tokenizer.template import assistant_ids, chat_input_ids, content_with_tools, message_ids, prefix_ids
from cluster.tokenizer.tokenizer import ROLES
from tests.cluster.tokenizer.recorded import turns

FRESH = [(name, history, turn) for name, history, turn in turns("stream_fresh") if "input_ids_fed" in turn]
CACHED = turns("stream_cached")
BLOCKING = [(name, history, turn) for name, history, turn in turns("chat") if "prompt_ids" in turn]


def test_recordings_are_there():
    """The recorded turns are found, so that the tests below cannot pass on nothing."""
    assert min(len(FRESH), len(CACHED), len(BLOCKING)) > 10


@pytest.mark.parametrize(("name", "history", "turn"), FRESH, ids=[name for name, _, _ in FRESH])
def test_fresh_turn_is_fed_the_recorded_ids(tokenizer, name, history, turn):
    """History and query give the prompt that a streamed answer began with."""
    assert chat_input_ids(tokenizer, turn["query"], history, turn["role"]) == turn["input_ids_fed"]


@pytest.mark.parametrize(("name", "history", "turn"), BLOCKING, ids=[name for name, _, _ in BLOCKING])
def test_blocking_turn_is_fed_the_recorded_ids(tokenizer, name, history, turn):
    """History and query give the prompt that a blocking answer began with."""
    assert chat_input_ids(tokenizer, turn["query"], history, turn["role"]) == turn["prompt_ids"]


@pytest.mark.parametrize(("name", "history", "turn"), CACHED, ids=[name for name, _, _ in CACHED])
def test_cached_turn_encodes_the_same_history(tokenizer, name, history, turn):
    """With a cache only the query is encoded; the history it stands for encodes as recorded."""
    is_cached = turn["attention_mask_len"] > len(turn["input_ids_fed"])
    fed = chat_input_ids(tokenizer, turn["query"], [] if is_cached else history, turn["role"])
    assert fed == turn["input_ids_fed"]
    assert chat_input_ids(tokenizer, turn["query"], history, turn["role"]) == turn["fresh_prompt_ids_same_history"]


def test_message_is_role_header_and_content(tokenizer):
    """Header and content are encoded apart, so the content has a dummy prefix of its own; nothing ends a message."""
    header = tokenizer.encode_text("\n")
    assert message_ids(tokenizer, "user", "hello") == [826, *header, *tokenizer.encode_text("hello")]
    assert message_ids(tokenizer, "user", "") == [826, *header]
    assert message_ids(tokenizer, "assistant", "x", "f") == [
        827,
        *tokenizer.encode_text("f\n"),
        *tokenizer.encode_text("x"),
    ]


@given(st.sampled_from(ROLES), st.text(max_size=20), st.sampled_from(["<|system|>", "[gMASK]sop", "</s>", ""]))
def test_content_never_opens_a_message(tokenizer, role, text, special):
    """A message holds exactly one special id, its role, whatever content and metadata say."""
    ids = message_ids(tokenizer, role, special + text, metadata=text + special)
    assert ids[0] == tokenizer.role_id(role)
    assert max(ids[1:]) < tokenizer.num_pieces


def test_chat_input_is_the_sum_of_its_messages(tokenizer):
    """Prefix, messages in order, then ``<|assistant|>``: what a server may compose from the parts."""
    history = [
        {"role": "user", "content": "a", "tools": ["ignored here"], "extra": 1},
        {"role": "assistant", "content": "b", "metadata": "m"},
    ]
    composed = [
        *prefix_ids(tokenizer),
        *message_ids(tokenizer, "user", "a"),
        *message_ids(tokenizer, "assistant", "b", "m"),
        *message_ids(tokenizer, "observation", "c"),
        *assistant_ids(tokenizer),
    ]
    assert chat_input_ids(tokenizer, "c", history, "observation") == composed


@pytest.mark.parametrize(("tools", "written"), [
    ([], "[]"),
    ({"имя": ["天", 1.5, None, True]}, '{\n    "имя": [\n        "天",\n        1.5,\n        null,\n        true\n    ]\n}'),
])  # fmt: skip
def test_system_tools_follow_the_content(tokenizer, tools, written):
    """A system item's tools are JSON behind its content, even when there are none of them."""
    history = [{"role": "system", "content": "s", "tools": tools}]
    assert content_with_tools("s", tools) == f"s\n{written}"
    assert message_ids(tokenizer, "system", f"s\n{written}") == chat_input_ids(tokenizer, "", history)[2:-4]


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(("item", "param"), [
    ({"role": "tool", "content": "x"}, "role"),
    ({"role": None, "content": "x"}, "role"),
    ({"content": "x"}, "role"),
    ({"role": "user"}, "content"),
    ({"role": "user", "content": 5}, "content"),
    ({"role": "user", "content": "x", "metadata": None}, "metadata"),
    ({"role": "system", "content": "x", "tools": {1j}}, "tools"),
    ({"role": "system", "content": "x", "tools": CIRCLE}, "tools"),
])  # fmt: skip
def test_malformed_item_is_refused(tokenizer, item, param):
    """An item with a wrong or missing field is the caller's error and names the field."""
    with pytest.raises(InvalidRequestError) as refused:
        chat_input_ids(tokenizer, "q", [item])
    assert refused.value.param == param


def test_lone_surrogate_in_tools_is_refused(tokenizer):
    """JSON keeps a lone surrogate as it is, so it is caught when the message is encoded."""
    with pytest.raises(InvalidRequestError, match="lone surrogate"):
        chat_input_ids(tokenizer, "q", [{"role": "system", "content": "", "tools": ["\ud800"]}])
