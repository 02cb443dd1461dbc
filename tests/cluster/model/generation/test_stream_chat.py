"""``stream_chat`` on the canonical sequence, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

from cluster.errors import (
    ContextLengthExceededError,
    GenerationFailedError,
    InvalidRequestError,
    ToolCallError,
)
from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.tokenizer.template import chat_input_ids, message_ids
from tests.parity.recorded import DATA
from tests.parity.shell import Script, shell, tokenizer

QUERY = "Hello, how are you?"
TOOLS = [{"role": "system", "content": "s", "tools": [{"name": "get_x"}]}]


def stream(query=QUERY, history=None, **given):
    return list(
        shell("tiny").stream_chat(tokenizer(), query, history, **{"do_sample": False, "max_new_tokens": 12} | given)
    )


def script(text, *, stop=2):
    """The ids that answer with ``text`` exactly, a header's newline included."""
    return [*tokenizer().encode_text(text), stop]


def test_a_cached_turn_goes_on_with_the_tokens_that_are_held():
    """One ``[gMASK] sop``, the sampled ids, then the new message: nothing else is computed."""
    first, history, cache = stream(return_past_key_values=True)[-1]
    held = cache.token_ids
    assert first == history[-1]["content"]
    *_, (_, after, later) = stream("And then?", history, past_key_values=cache, return_past_key_values=True)
    message = [*message_ids(tokenizer(), "user", "And then?"), 827]
    assert later.token_ids[: len(held) + len(message)] == held + message
    assert later.token_ids.count(821) == 1
    assert after[:2] == history


def test_a_cached_turn_answers_as_the_same_tokens_without_a_cache():
    """The cache saves work and changes nothing."""
    _, history, cache = stream(return_past_key_values=True)[-1]
    ids = torch.tensor([[*cache.token_ids, *message_ids(tokenizer(), "user", "Go"), 827]])
    fresh = shell("tiny").generate(input_ids=ids, max_new_tokens=8, eos_token_id=[2, 826, 828])[0, ids.shape[1] :]
    *_, (_, _, later) = stream("Go", history, past_key_values=cache, return_past_key_values=True, max_new_tokens=8)
    answer = later.token_ids[ids.shape[1] :]
    assert answer == fresh.tolist()[: len(answer)]
    assert answer


def test_each_cache_holds_the_tokens_of_its_text_and_stays():
    """Whoever keeps an early yield can go on from there after the stream has ended."""
    yields = stream(return_past_key_values=True)
    _, history, early = yields[2]
    ids, length = early.token_ids, early.get_seq_length()
    assert length == len(ids) < yields[-1][2].get_seq_length()
    with torch.inference_mode():
        fresh = shell("tiny")(torch.tensor([ids]), past_key_values=(again := DynamicCache())).logits
    assert fresh.shape[1] == length
    torch.testing.assert_close(early.layers[2].keys, again.layers[2].keys, rtol=0, atol=1e-4)
    assert stream("Go on", history, past_key_values=early)


def test_messages_added_since_are_computed_too():
    """A client may add messages behind those that the cache holds."""
    _, history, cache = stream(return_past_key_values=True)[-1]
    grown = [*history, {"role": "observation", "content": "22"}]
    held = cache.token_ids
    *_, (_, _, later) = stream("ok", grown, past_key_values=cache, return_past_key_values=True)
    added = [*message_ids(tokenizer(), "observation", "22"), *message_ids(tokenizer(), "user", "ok"), 827]
    assert later.token_ids[len(held) : len(held) + len(added)] == added


@pytest.mark.parametrize("spoil", ["other", "shorter", "none", "cropped", "foreign"])
def test_a_cache_that_is_not_the_historys_is_refused(spoil):
    """Another history, or a cache that somebody cut or made elsewhere, is one clear error."""
    _, history, cache = stream(return_past_key_values=True)[-1]
    given = {"other": [{"role": "user", "content": "x"}], "shorter": history[:1], "none": None}.get(spoil, history)
    if spoil == "cropped":
        cache.crop(-2)
    if spoil == "foreign":
        cache = DynamicCache()
        shell("tiny")(torch.tensor([[821, 823]]), past_key_values=cache)
    with pytest.raises(InvalidRequestError, match="past_key_values"):
        stream("x", given, past_key_values=cache)


def test_an_answer_that_is_cut_keeps_its_last_token():
    """The last yield of a stream that ran into its limit shows everything that was drawn, in text, history and cache."""
    *_, (text, history, cache) = stream(max_new_tokens=4, return_past_key_values=True)
    answer = cache.token_ids[14:]
    assert len(answer) == 4
    assert text == tokenizer().decode(answer).strip() == history[-1]["content"]


def test_the_callers_history_is_left_alone():
    """Neither the list nor its items change, and yields do not share theirs."""
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "metadata": "", "content": "b"}]
    before = copy.deepcopy(history)
    yields = stream(history=history)
    yields[0][1][0]["content"] = "changed"
    assert history == before
    assert yields[1][1][0]["content"] == "a"


def test_yields_do_not_share_what_is_inside_their_items():
    """Tools that a client changes in one yield are as they were in the next one, and in the cache's own history."""
    yields = stream(history=TOOLS, return_past_key_values=True, max_new_tokens=4)
    (_, first, _), *_, (_, last, cache) = yields
    first[0]["tools"][0]["name"] = "changed"
    assert last[0]["tools"] == [{"name": "get_x"}]
    last[0]["tools"].append({"name": "get_y"})
    with pytest.raises(InvalidRequestError, match="past_key_values"):
        stream("x", last, past_key_values=cache)


def test_a_tools_call_streams_as_text_and_ends_as_values():
    """An unfinished call is shown as it stands; the last yield has its parameters."""
    call = "get_x\n```python\ntool_call(city='Омск')\n```"
    yields = stream(history=TOOLS, logits_processor=[Script(script(call, stop=828))], max_new_tokens=80)
    contents = [content for content, _ in yields]
    assert contents[-1] == {"name": "get_x", "parameters": {"city": "Омск"}}
    assert {"name": "get_x", "content": ""} in contents or any("content" in c for c in contents if isinstance(c, dict))
    assert yields[-1][1][-1]["metadata"] == "get_x"


def test_a_broken_call_ends_in_a_typed_error_after_its_text():
    """Nothing is evaluated; the error keeps what the model wrote."""
    call = "get_x\n```python\ntool_call(city=open('x'))\n```"
    seen, running = (
        [],
        shell("tiny").stream_chat(
            tokenizer(), QUERY, TOOLS, logits_processor=[Script(script(call))], do_sample=False, max_new_tokens=90
        ),
    )
    with pytest.raises(ToolCallError) as caught:
        seen.extend(content for content, _ in running)
    assert caught.value.text == call
    assert seen[-1]["name"] == "get_x"


def test_a_spelt_role_does_not_split_an_answer_and_its_id_does():
    """``<|assistant|>`` in letters is text; the published code takes it for the id."""
    ids = [585, 13, *tokenizer().encode_text("a<|assistant|>b"), 827, 585, 13, *tokenizer().encode_text("c"), 2]
    given = {"logits_processor": [Script(ids)], "do_sample": False, "max_new_tokens": 60}
    _, history = shell("tiny").chat(tokenizer(), QUERY, **given)
    assert [item["content"] for item in history[1:]] == ["a<|assistant|>b", "c"]
    _, published = shell("tiny").chat(tokenizer(), QUERY, legacy=True, **given | {"logits_processor": [Script(ids)]})
    assert [item["content"] for item in published[1:]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"role": "tool"}, "role"),
        ({"history": "x"}, "history"),
        ({"history": [1]}, "history"),
        ({"history": [{"role": "user"}]}, "content"),
        ({"query": 5}, "query"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": 0, "do_sample": True}, "temperature"),
        ({"top_k": -1, "do_sample": True}, "top_k"),
        ({"num_beams": 2}, "num_beams"),
        ({"tempreature": 0.5}, "tempreature"),
    ],
)
def test_a_wrong_argument_is_named(given, param):
    """One typed error, before anything is computed."""
    with pytest.raises(InvalidRequestError) as caught:
        stream(**given)
    assert caught.value.param == param


def test_an_answer_ends_at_the_context_by_default_and_more_is_refused():
    """The default length reaches as far as the model does; asking for more is an error."""
    near = "word " * 320
    prompt = len(chat_input_ids(tokenizer(), near, []))
    assert 900 < prompt < 1024
    ids = stream(near, max_new_tokens=None, return_past_key_values=True, eos_token_id=[])[-1][2].token_ids
    assert len(ids) == 1024
    with pytest.raises(ContextLengthExceededError):
        stream(near, max_new_tokens=1025 - prompt)


def test_weights_that_hold_nan_end_a_chat_with_a_typed_error():
    """No stream of control characters."""
    model = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny")
    model.transformer.output_layer.weight.data[7, 3] = float("nan")
    with pytest.raises(GenerationFailedError, match="not finite"):
        model.chat(tokenizer(), QUERY)
    with pytest.raises(GenerationFailedError, match="not finite"):
        list(model.stream_chat(tokenizer(), QUERY))


def test_a_tokenizer_of_another_checkpoint_is_refused():
    """Its ids would be other rows."""
    model = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny")
    object.__setattr__(model.shape, "padded_vocab_size", 65024)
    with pytest.raises(InvalidRequestError, match="same checkpoint"):
        model.chat(tokenizer(), QUERY)


def test_stream_generate_decodes_a_batch_as_generate_does():
    """Left padding, rows that end early, custom criteria and processors."""
    inputs = tokenizer()(["Hello", "a much longer text", "Да"], padding=True, return_tensors="pt")
    stops = [2, 826, 828, 391]
    whole = shell("tiny").generate(**inputs, max_new_tokens=9, eos_token_id=stops)
    streamed = list(shell("tiny").stream_generate(**inputs, max_new_tokens=9, eos_token_id=stops))
    assert streamed[-1].tolist() == whole.tolist()
    assert [made.shape[1] for made in streamed] == [inputs.input_ids.shape[1] + k for k in range(1, len(streamed) + 1)]


def test_stream_generate_takes_criteria_and_yields_caches():
    """A criterion ends the stream; the cache lacks the last token."""
    ids = torch.tensor([[821, 823, 826]])
    made = list(
        shell("tiny").stream_generate(
            ids,
            max_length=50,
            eos_token_id=[],
            return_past_key_values=True,
            stopping_criteria=[lambda seen, _: torch.tensor([seen.shape[1] >= 7])],
        )
    )
    assert [out.shape[1] for out, _ in made] == [4, 5, 6, 7]
    assert [cache.get_seq_length() for _, cache in made] == [3, 4, 5, 6]
