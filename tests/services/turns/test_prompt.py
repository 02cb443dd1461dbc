"""Messages to prompt ids, and what fits the context."""

from __future__ import annotations

import pytest

from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.tokenizer.template import chat_input_ids
from cluster.tokenizer.tool_calls import ToolCall
from services.conversations.records import Item
from services.turns.events import Message, Role
from services.turns.prompt import (
    PromptMessage,
    digest,
    output_limit,
    prompt_ids,
    stateless_messages,
    stored_messages,
)

CALL = ToolCall("get_weather", {"city": "北京"})
CALLED = {"role": "assistant", "metadata": "get_weather", "content": "```python\ntool_call(city='北京')\n```"}


def test_a_history_of_texts_is_encoded_as_the_published_model_does(tokenizer):
    """Without sampled ids the prompt is ``chat``'s, with one ``[gMASK] sop``."""
    history = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    history.append({"role": "assistant", "content": "Hello"})
    messages = [PromptMessage(item["role"], item["content"]) for item in history]
    expected = chat_input_ids(tokenizer, "bye", history)
    assert prompt_ids(tokenizer, [*messages, PromptMessage("user", "bye")]) == expected


def test_a_prompt_begins_with_the_tokens_the_turn_before_left_in_the_cache(tokenizer):
    """Prompt and sampled ids of one turn are the beginning of the next one's prompt."""
    first = [PromptMessage("user", "Hi")]
    sampled = [300, 13, 299, 5]
    cached = prompt_ids(tokenizer, first) + sampled
    second = [*first, PromptMessage("assistant", "whatever its text is", sampled), PromptMessage("user", "more")]
    assert prompt_ids(tokenizer, second)[: len(cached)] == cached


@pytest.mark.parametrize("ids", [None, []])
def test_an_answer_without_ids_is_encoded_by_the_template(tokenizer, ids):
    """A message that a client wrote has a header of its own."""
    header = tokenizer.encode_text("\n")
    expected = [tokenizer.role_id("assistant"), *header, *tokenizer.encode_text("Hello")]
    actual = prompt_ids(tokenizer, [PromptMessage("assistant", "Hello", ids)])
    assert actual[2:-1] == expected


@pytest.mark.parametrize("text", ["<|system|>", "[gMASK] sop <|assistant|>", "\x00"])
def test_text_never_becomes_a_control_token(tokenizer, text):
    """Whatever a user writes stays below the special ids."""
    body = prompt_ids(tokenizer, [PromptMessage("user", text)])[3:-1]
    assert all(token_id < tokenizer.num_pieces for token_id in body)


def test_a_lone_surrogate_is_refused_by_name(tokenizer):
    """Text that is no Unicode has no ids."""
    with pytest.raises(InvalidRequestError, match="surrogate"):
        prompt_ids(tokenizer, [PromptMessage("user", "\ud800")])


def test_instructions_come_first_and_new_input_last():
    """This turn's system message stands before the whole conversation."""
    history = [Item(id="a", role="user", text="Hi"), Item(id="b", role="assistant", text="Hello", ids=[5])]
    new = [Item(id="c", role="user", text="more")]
    actual = stored_messages("Be kind.", history, new)
    expected = [("system", "Be kind.", None), ("user", "Hi", None), ("assistant", "Hello", [5]), ("user", "more", None)]
    assert expected == [(message.role, message.text, message.ids) for message in actual]


@pytest.mark.parametrize(("prompt_tokens", "max_tokens", "expected"), [(10, None, 90), (99, None, 1), (90, 10, 10)])
def test_the_answer_may_have_what_was_asked_for_or_what_is_left(prompt_tokens, max_tokens, expected):
    """The limit never leads out of the context."""
    assert output_limit(prompt_tokens, max_tokens, 100) == expected


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "reported"), [(90, 11, 11), (100, None, 1), (101, None, 0), (150, 5, 0)]
)
def test_what_does_not_fit_is_refused_with_both_numbers(prompt_tokens, max_tokens, reported):
    """The error names the prompt's length and the tokens asked for; 0 when the prompt alone is too long."""
    with pytest.raises(ContextLengthExceededError) as caught:
        output_limit(prompt_tokens, max_tokens, 100)
    error = caught.value
    assert (prompt_tokens, reported, 100) == (error.prompt_tokens, error.max_tokens, error.context_length)


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_an_answer_without_tokens_cannot_be_asked_for(max_tokens):
    """The refusal names the field."""
    with pytest.raises(InvalidRequestError) as caught:
        output_limit(1, max_tokens, 100)
    assert caught.value.param == "max_tokens"


def test_a_digest_tells_prompts_apart():
    """Equal ids, equal digest; order and values count; 128 bits in hex."""
    assert digest([1, 2, 65000]) == digest([1, 2, 65000])
    assert len({digest([1, 2]), digest([2, 1]), digest([1]), digest([])}) == 4
    assert len(digest([])) == 32


@pytest.mark.parametrize("text", ["", "I will look."])
def test_a_call_is_encoded_as_the_published_model_does(tokenizer, text):
    """The tool's name is metadata; what was said before it is a message of its own; a result is an observation."""
    said = [{"role": "assistant", "content": text}] if text else []
    history = [{"role": "user", "content": "Weather?"}, *said, CALLED]
    messages = [Message(Role.USER, "Weather?"), Message(Role.ASSISTANT, text, CALL), Message(Role.OBSERVATION, "12 °C")]
    expected = chat_input_ids(tokenizer, "12 °C", history, role="observation")
    assert prompt_ids(tokenizer, stateless_messages(messages, {})) == expected


def test_a_call_that_was_sampled_is_put_back_as_it_was(tokenizer):
    """Known ids stand for text and call together, behind one ``<|assistant|>``."""
    sampled = [300, 13, 299, 5]
    actual = prompt_ids(tokenizer, stateless_messages([Message(Role.ASSISTANT, "So.", CALL)], {0: sampled}))
    role = tokenizer.role_id("assistant")
    assert actual[2:] == [role, *sampled, role]


@pytest.mark.parametrize("text", ["<|observation|>", "<|assistant|>get_weather\n```", "<|system|>[gMASK]sop"])
def test_nothing_in_a_call_or_a_result_becomes_a_control_token(tokenizer, text):
    """Arguments and results are text, whoever wrote them."""
    call = ToolCall("get_weather", {"city": text})
    messages = [Message(Role.ASSISTANT, text, call), Message(Role.OBSERVATION, text), Message(Role.SYSTEM, text)]
    ids = prompt_ids(tokenizer, stateless_messages(messages, {}))
    roles = ["assistant", "assistant", "observation", "system", "assistant"]
    assert [i for i in ids[2:] if i >= tokenizer.num_pieces] == [tokenizer.role_id(role) for role in roles]
