"""Prefixes, adapters and quantized weights in the library shell give the recorded logits, ids and streams."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from cluster.errors import InvalidRequestError
from cluster.model import ChatGLM3ForConditionalGeneration
from tests.parity.recorded import DATA, assert_close, load_json, load_tensors
from tests.parity.shell import tokenizer
from tests.parity.test_recorded_adapters import LORA, PREFIXES, STOPS, prefix_folder, tuned_folder

LOADED = [(name, is_whole) for name in PREFIXES for is_whole in (True, False)]


def tuned(name, folder, *, is_whole=False):
    """The shell with a recorded prefix, from one checkpoint or from two."""
    load = ChatGLM3ForConditionalGeneration.from_pretrained
    if is_whole:
        return load(tuned_folder(name, folder / "tuned"))
    return load(DATA / "tiny", prefix=prefix_folder(name, folder / "prefix"))


def assert_recorded(model, cases, expected):
    """Logits of every position, and greedy ids from both decode loops."""
    given = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": sorted(STOPS)}
    for case in cases:
        ids = torch.tensor([case["input_ids"]])
        with torch.inference_mode():
            assert_close(model(ids).logits[0], expected[f"logits_{case['key']}"])
        assert model.generate(ids, **given)[0, ids.shape[1] :].tolist() == case["greedy_20"]
        *_, streamed = model.stream_generate(ids, **given)
        assert streamed[0, ids.shape[1] :].tolist() == case["greedy_20"]
    assert len(cases) == 2


@pytest.mark.parametrize(("name", "is_whole"), LOADED)
def test_a_prefix_gives_the_recorded_answers(name, is_whole, tmp_path):
    """From a tuned checkpoint, and over the base model; the cache counts its rows."""
    model, recorded = tuned(name, tmp_path, is_whole=is_whole), load_json(name)
    assert_recorded(model, recorded["cases"], load_tensors(name))
    for case in recorded["cases"]:
        cache = model.open_cache(None, 1)
        model(torch.tensor([case["input_ids"]]), past_key_values=cache)
        assert cache.get_seq_length() == case["cache_len_after_prefill"]


@pytest.mark.parametrize("name", PREFIXES)
def test_a_prefixed_stream_goes_on_as_recorded(name, tmp_path):
    """Two turns: yields, histories, and caches that hold the prefix once."""
    model, history, cache = tuned(name, tmp_path), [], None
    for turn in load_json(name)["stream_cached"]["turns"]:
        before = list(history)
        seen = list(
            model.stream_chat(
                tokenizer(),
                turn["query"],
                history,
                past_key_values=cache,
                return_past_key_values=True,
                legacy_cache=True,
                **turn["args"],
            )
        )
        asked = {"role": "user", "content": turn["query"]}
        assert [made[:2] for made in seen] == [(text, [*before, asked, *added]) for _, text, added in turn["yields"]]
        _, history, cache = seen[-1]
        assert cache.get_seq_length() == turn["cache_len_of_last_yield"]
        assert history == turn["history_after"]


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_gives_the_recorded_answers(merge):
    """Merged into the weights, or kept apart."""
    model = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny", lora=LORA, merge=merge)
    expected = json.loads((LORA / "expected.json").read_text())
    assert_recorded(model, expected["cases"], load_file(LORA / "expected.safetensors"))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_quantized_from_float16_gives_the_recorded_float32_logits(bits):
    """The scales stay float16 when the rest becomes float32."""
    model = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny", dtype="float16").quantize(bits)
    ids = tokenizer().build_chat_input("Hello, how are you today?").input_ids
    whole = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny").state_dict()
    model.float().load_state_dict({name: whole[name] for name in whole.keys() & unquantized(model)}, strict=False)
    with torch.inference_mode():
        assert_close(model(ids).logits[0], load_tensors("quantized_model_tiny")[f"logits_int{bits}"])


def unquantized(model):
    """Names of what the recording kept in float32."""
    return {name for name, held in model.named_parameters() if held.dtype is torch.float32}


def test_a_cache_of_the_model_without_the_prefix_is_refused(tmp_path):
    """And the other way round: equal in shape, but other rows stand in front."""
    prefixed, plain = tuned("ptuning_tiny", tmp_path), ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny")
    given = {"do_sample": False, "max_new_tokens": 9, "return_past_key_values": True}
    for one, other in ((prefixed, plain), (plain, prefixed)):
        *_, (_, history, cache) = one.stream_chat(tokenizer(), "Hello there", **given)
        with pytest.raises(InvalidRequestError, match="another prefix"):
            next(other.stream_chat(tokenizer(), "x", history, past_key_values=cache))
