"""Quantized weights, adapters and prefixes in the library shell: loaded, saved, refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import CheckpointError, ConfigurationError, InvalidRequestError
from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.model.loader import load_model
from tests.cluster.model.generation.test_shell import DISK
from tests.cluster.model.test_loader import LAST, held_bytes
from tests.parity.recorded import DATA, assert_close, load_json
from tests.parity.shell import tokenizer
from tests.parity.test_recorded_adapters import LORA, prefix_folder

IDS = torch.tensor([[821, 823, 826, 585, 13, 490, 330]])
GREEDY = {"do_sample": False, "max_new_tokens": 8}


def load(path=DATA / "tiny", **given):
    return ChatGLM3ForConditionalGeneration.from_pretrained(path, **given)


def logits(model):
    with torch.inference_mode():
        return model(IDS).logits


def equal(model, other):
    """Whether two models have the same tensors, bit for bit."""
    first, second = model.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_model_is_saved_as_one_and_loads_with_equal_bits(bits, dtype, tmp_path):
    """In the published names, for the shell and for what serves."""
    model = load(dtype=dtype)
    assert model.quantize(bits) is model
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_bit"] == bits
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["transformer.encoder.layers.0.mlp.dense_4h_to_h.weight_scale"].dtype is model.dtype
    again = load(tmp_path)
    assert equal(model, again)
    assert torch.equal(logits(model), logits(again))
    served = dict(load_model(tmp_path, model.dtype, "cpu").named_parameters())
    assert all(torch.equal(served[name], held) for name, held in model.named_parameters())


@pytest.mark.parametrize("device_map", [None, "auto", "disk"])
def test_quantizing_on_load_and_afterwards_is_the_same(device_map, tmp_path):
    """Wherever the weights are."""
    places = DISK if device_map == "disk" else device_map
    model = load(quantize=4, device_map=places, offload_folder=tmp_path)
    assert model.shape.quantization_bit == 4
    assert torch.equal(logits(model), logits(load().quantize(4)))


@pytest.mark.parametrize("bits", [16, 0, True, 8.0, "8"])
def test_unknown_bits_are_refused(bits):
    """And nothing is changed."""
    model = load()
    with pytest.raises(ConfigurationError, match="4 or 8 bits"):
        model.quantize(bits)
    assert equal(model, load())
    with pytest.raises(ConfigurationError, match="4 or 8 bits"):
        load(quantize=16)


def test_quantizing_twice_is_refused(tmp_path):
    """By the method, and of a checkpoint that has other bits."""
    model = load(quantize=8)
    for bits in (8, 4):
        with pytest.raises(ConfigurationError, match="8 bits already"):
            model.quantize(bits)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="8 bits"):
        load(tmp_path, quantize=4)


def test_a_model_spread_over_devices_is_quantized_on_load_alone(tmp_path):
    """What is on disk cannot be changed there."""
    model = load(device_map=DISK, offload_folder=tmp_path)
    with pytest.raises(ConfigurationError, match="as it loads"):
        model.quantize(8)


def test_an_adapter_kept_apart_is_not_saved_silently(tmp_path):
    """Merging it first gives the model that loading with ``merge=True`` does."""
    model = load(lora=LORA, merge=False)
    with pytest.raises(ConfigurationError, match="merge_lora"):
        model.save_pretrained(tmp_path / "apart")
    model.merge_lora().save_pretrained(tmp_path / "merged")
    assert_close(logits(load(tmp_path / "merged")), logits(load(lora=LORA, merge=True)), 1e-5)


def test_a_merged_adapter_is_in_the_weights_before_they_are_quantized():
    """And one that is kept apart stays exact beside them."""
    assert equal(load(lora=LORA, quantize=8), load(lora=LORA).quantize(8))
    apart = load(lora=LORA, merge=False, quantize=8)
    assert torch.equal(logits(apart), logits(load(lora=LORA, merge=False).quantize(8)))
    with pytest.raises(CheckpointError, match="quantized"):
        apart.merge_lora()


def test_an_adapter_beside_weights_on_disk_is_refused(tmp_path):
    """Merged, it works there."""
    with pytest.raises(ConfigurationError, match=r"layers\.1\..* on disk"):
        load(lora=LORA, merge=False, device_map=DISK, offload_folder=tmp_path)
    merged = load(lora=LORA, device_map=DISK, offload_folder=tmp_path)
    assert torch.equal(logits(merged), logits(load(lora=LORA)))


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    """By the tensor's name."""
    shutil.copytree(LORA, tmp_path / "lora")
    held = load_file(LORA / "adapter_model.safetensors")
    name = min(held)
    save_file(held | {name: torch.zeros(4, 63)}, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="has shape"):
        load(lora=tmp_path / "lora")


def prefixed(folder, name="ptuning_projection_tiny", **given):
    return load(prefix=prefix_folder(name, folder / "prefix"), **given)


def test_a_prefixed_model_makes_the_round_trip(tmp_path):
    """Its encoder stays float32 in whatever dtype the rest is."""
    model = prefixed(tmp_path, dtype="bfloat16")
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.prefix_rows == load_json("ptuning_projection_tiny")["config_overrides"]["pre_seq_len"]
    assert again.transformer.prefix_encoder.embedding.weight.dtype is torch.float32
    assert equal(model, again)


def test_a_prefixed_chat_goes_on_with_its_cache(tmp_path):
    """Canonically: the cache's ids are tokens alone, and a fresh pass over them answers the same."""
    model = prefixed(tmp_path)
    streamed = model.stream_chat(tokenizer(), "Hello", return_past_key_values=True, **GREEDY)
    *_, (_, history, cache) = streamed
    assert cache.get_seq_length() == len(cache.token_ids) + model.prefix_rows
    held = cache.token_ids
    later = model.stream_chat(tokenizer(), "Go", history, past_key_values=cache, return_past_key_values=True, **GREEDY)
    *_, (_, _, after) = later
    assert after.token_ids[: len(held)] == held
    end = after.token_ids.index(827, len(held)) + 1  # what was sampled begins here
    given = {**GREEDY, "eos_token_id": [2, 826, 828]}
    fresh = model.generate(torch.tensor([after.token_ids[:end]]), **given)[0].tolist()
    assert fresh[: len(after.token_ids)] == after.token_ids


def test_a_prefix_serves_padded_batches_beams_and_continued_caches(tmp_path):
    """Every row has it, no mask speaks of it, and ``generate`` does not take its rows for tokens."""
    model = prefixed(tmp_path)
    inputs = tokenizer()(["Hello", "a much longer text"], padding=True, return_tensors="pt")
    both = model.generate(**inputs, **GREEDY)[:, inputs.input_ids.shape[1] :].tolist()
    alone = tokenizer()("Hello", return_tensors="pt").input_ids
    single = model.generate(alone, **GREEDY)
    assert both[0] == single[0, alone.shape[1] :].tolist()
    *_, streamed = model.stream_generate(**inputs, **GREEDY)
    assert streamed[:, inputs.input_ids.shape[1] :].tolist() == both
    cache = model.open_cache(None, 1)
    model(alone[:, :2], past_key_values=cache)
    assert model.generate(alone, past_key_values=cache, **GREEDY).tolist() == single.tolist()
    assert len(model.generate(alone, num_beams=3, num_return_sequences=2, **GREEDY)) == 2


def test_a_cache_without_the_prefix_is_refused(tmp_path):
    """It was computed by another model."""
    foreign = load().open_cache(None, 1)
    load()(IDS[:, :2], past_key_values=foreign)
    with pytest.raises(InvalidRequestError, match="prefix"):
        prefixed(tmp_path)(IDS, past_key_values=foreign)


def test_a_prefix_works_where_layers_are_offloaded(tmp_path):
    """Its rows go where each layer computes."""
    places = DISK | {"transformer.prefix_encoder": "disk"}
    model = prefixed(tmp_path, device_map=places, offload_folder=tmp_path / "disk")
    (tmp_path / "again").mkdir()
    assert torch.equal(logits(model), logits(prefixed(tmp_path / "again")))


@pytest.mark.parametrize(
    "given",
    [{}, {"quantize": 8}, {"device_map": "disk"}, {"lora": LORA, "merge": False}],
    ids="-".join,
)
def test_nothing_is_kept_of_a_model_that_failed_to_load(given, tmp_path):
    """Its last tensor is no number; not even the error, with every frame that it went through, holds the others."""
    shutil.copytree(DATA / "tiny", tmp_path / "tiny")
    held = load_file(DATA / "tiny" / "model.safetensors")
    held[LAST].fill_(float("inf"))
    save_file(held, tmp_path / "tiny" / "model.safetensors")
    before = held_bytes()
    with pytest.raises(CheckpointError, match="holds NaN or infinity") as caught:
        load(tmp_path / "tiny", offload_folder=tmp_path / "disk", **given)
    assert caught.value.__traceback__ is not None
    assert held_bytes() == before


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    """When they are loaded."""
    shutil.copytree(DATA / "tiny", tmp_path / "tiny")
    held = load_file(DATA / "tiny" / "model.safetensors")
    held["transformer.output_layer.weight"][3, 3] = float("nan")
    save_file(held, tmp_path / "tiny" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"output_layer\.weight"):
        load(tmp_path / "tiny")
