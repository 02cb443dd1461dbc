"""Weights spread over places answer as if they were in one, or the map is refused before anything is read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from cluster.errors import ConfigurationError
from cluster.model import ChatGLM3ForConditionalGeneration
from tests.parity.recorded import DATA
from tests.parity.shell import shell, tokenizer

BLOCK = "transformer.encoder.layers.1"
IDS = torch.tensor([[821, 823, 826, 585, 13, 490, 330]])
GREEDY = {"do_sample": False, "max_new_tokens": 2}


def load(device_map, folder, **given):
    return ChatGLM3ForConditionalGeneration.from_pretrained(
        DATA / "tiny", device_map=device_map, offload_folder=folder, **given
    )


def on_disk(model):
    """Names of the weights that are not in memory."""
    return {name for name, parameter in model.named_parameters() if parameter.is_meta}


def assert_answers(model):
    """Twice the same logits, and the same chats, as the model in memory."""
    with torch.inference_mode():
        wanted = shell("tiny")(IDS).logits
        assert torch.equal(model(IDS).logits, wanted)
        assert torch.equal(model(IDS).logits, wanted)
    for given in (GREEDY, GREEDY | {"num_beams": 2}):
        assert model.chat(tokenizer(), "Hello", **given) == shell("tiny").chat(tokenizer(), "Hello", **given)
    assert list(model.stream_chat(tokenizer(), "Hello", **GREEDY)) == list(
        shell("tiny").stream_chat(tokenizer(), "Hello", **GREEDY)
    )


@pytest.mark.parametrize("policy", ["auto", "balanced", "sequential"])
def test_a_policy_splits_what_does_not_fit(policy, tmp_path):
    """The first layers stay in memory, the rest goes to disk; the caller's limits are left as they are."""
    limits = {"cpu": "700KiB"}
    model = load(policy, tmp_path, max_memory=limits)
    assert limits == {"cpu": "700KiB"}
    assert "transformer.embedding.word_embeddings.weight" not in on_disk(model)
    assert {f"{BLOCK}.input_layernorm.weight", "transformer.output_layer.weight"} <= on_disk(model)
    assert_answers(model)


def test_a_policy_puts_a_quantized_model_on_disk_too(tmp_path):
    """Levels and scales are brought as weights are."""
    model = load("auto", tmp_path, max_memory={"cpu": "490KiB"}, quantize=8)
    assert f"{BLOCK}.mlp.dense_4h_to_h.weight_scale" in on_disk(model)
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, load(None, None, quantize=8)(IDS).logits)


def test_a_policy_on_one_device_leaves_the_model_plain():
    """What all fits in one place needs no hooks, and can be quantized and packed."""
    model = load("auto", None)
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    assert model.quantize(8).shape.quantization_bit == 8


@pytest.mark.parametrize(
    ("device_map", "is_on_disk"),
    [
        ({"": "cpu", BLOCK: "disk"}, lambda name: name.startswith(BLOCK)),
        ({"": "disk", BLOCK: "cpu"}, lambda name: not name.startswith(BLOCK)),
        (
            {"": torch.device("cpu"), BLOCK: "disk", f"{BLOCK}.mlp": "cpu"},
            lambda name: name.startswith(BLOCK) and "mlp" not in name,
        ),
        ({"transformer": "disk"}, lambda _: True),
        ("disk", lambda _: True),
    ],
)
def test_the_innermost_module_of_a_map_decides(device_map, is_on_disk, tmp_path):
    """Modules inside each other, inside a block, and the word embedding on disk."""
    model = load(device_map, tmp_path)
    assert on_disk(model) == {name for name, _ in model.named_parameters() if is_on_disk(name)}
    assert_answers(model)


def test_a_model_on_disk_is_saved_whole(tmp_path):
    """With the weights that are not in memory."""
    model = load("disk", tmp_path / "disk")
    with pytest.warns(UserWarning, match="offloaded"):
        model.save_pretrained(tmp_path / "saved")
    saved, stored = (load_file(folder / "model.safetensors") for folder in (tmp_path / "saved", DATA / "tiny"))
    assert all(torch.equal(tensor, stored[name]) for name, tensor in saved.items())
    assert saved.keys() == stored.keys() - {"transformer.rotary_pos_emb.inv_freq"}


@pytest.mark.parametrize(
    ("device_map", "given", "words"),
    [
        ("meta", {}, "asks for 'meta'"),
        ({"": "gpu"}, {}, "asks for 'gpu'"),
        ({"": None}, {}, "asks for None"),
        ({"": 99}, {}, "asks for 99"),
        ({"transformer": "cpu", f"{BLOCK}.input_layernorm.weight": "disk"}, {}, "no module"),
        ("auto", {"max_memory": {"cpu": "much"}}, "max_memory is .*much"),
        ("auto", {"max_memory": {"gpu": "1GiB"}}, "max_memory is .*gpu"),
    ],
)
def test_a_map_that_cannot_be_is_refused(device_map, given, words, tmp_path):
    """By one error that names the argument and what it may be."""
    with pytest.raises(ConfigurationError, match=words):
        load(device_map, tmp_path, **given)


def test_an_offload_folder_that_cannot_be_made_is_named(tmp_path):
    """A file is in its place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file cannot be made"):
        load("disk", tmp_path / "file")
