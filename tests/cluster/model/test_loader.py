"""A checkpoint is loaded whole and exact, or refused by the name of the file and the tensor."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import CheckpointError, ConfigurationError
from cluster.model.loader import load_model
from cluster.model.writing import write_config
from tests.support.random_model import SHAPE, random_model

DATA = Path(__file__).parents[2] / "parity" / "data"
QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
LAST = "transformer.output_layer.weight"  # of those that are read
FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


@pytest.fixture
def safe_folder(tmp_path):
    """A copy of the tiny checkpoint to break."""
    return Path(shutil.copytree(DATA / "tiny", tmp_path / "tiny"))


@pytest.fixture
def bin_folder(tmp_path):
    """A copy of the sharded one."""
    return Path(shutil.copytree(DATA / "tiny-bin", tmp_path / "tiny-bin"))


def rewrite(folder, change):
    """Save the safetensors file again after ``change`` edited its tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refusal(folder):
    """The message a folder is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_model(folder, torch.float32, "cpu")
    return str(caught.value)


def test_every_tensor_is_the_stored_one():
    """Names are the published ones; nothing is left without storage."""
    stored = load_file(DATA / "tiny" / "model.safetensors")
    stored.pop("transformer.rotary_pos_emb.inv_freq", None)
    loaded = dict(load_model(DATA / "tiny", torch.float32, "cpu").named_parameters())
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_both_layouts_hold_the_same_weights():
    """Two float16 torch shards behind an index are the float32 file, rounded."""
    whole = dict(load_model(DATA / "tiny", torch.float32, "cpu").named_parameters())
    for name, tensor in load_model(DATA / "tiny-bin", torch.float32, "cpu").named_parameters():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, whole[name].half().float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_converted_to_the_asked_dtype(dtype):
    """Whatever they were stored in."""
    assert {tensor.dtype for tensor in load_model(DATA / "tiny-bin", dtype, "cpu").parameters()} == {dtype}


def test_a_model_does_not_read_its_files_again(bin_folder):
    """A mapped file that changes later must not change the weights."""
    model = load_model(bin_folder, torch.float16, "cpu")
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    for name in (FIRST, SECOND):
        with (bin_folder / name).open("r+b") as file:
            file.write(b"\0" * (bin_folder / name).stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def test_a_safetensors_file_is_not_the_models_memory(safe_folder):
    """Where the dtype is the stored one, a mapped file would be."""
    model = load_model(safe_folder, torch.float32, "cpu")
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    file = safe_folder / "model.safetensors"
    with file.open("r+b") as written:
        written.write(b"\0" * file.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(safe_folder, wrong):
    """One of them would spoil every answer."""
    rewrite(safe_folder, lambda tensors: tensors[QKV][3].fill_(wrong))
    assert f"{QKV!r} holds NaN or infinity in float32" in refusal(safe_folder)


def test_a_weight_too_large_for_the_asked_dtype_is_named(safe_folder):
    """It would be infinite in float16, and is fine in bfloat16."""
    rewrite(safe_folder, lambda tensors: tensors[QKV][3].fill_(1e5))
    with pytest.raises(CheckpointError, match="infinity in float16"):
        load_model(safe_folder, torch.float16, "cpu")
    load_model(safe_folder, torch.bfloat16, "cpu")


def test_nothing_is_kept_after_an_error(safe_folder):
    """Not even while the error itself is, with every frame that it went through."""
    rewrite(safe_folder, lambda tensors: tensors[LAST].fill_(float("nan")))
    before = held_bytes()
    with pytest.raises(CheckpointError) as caught:
        load_model(safe_folder, torch.float32, "cpu")
    assert LAST in str(caught.value)
    assert held_bytes() == before


def held_bytes():
    """Memory of all tensors that anything refers to."""
    gc.collect()
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor) and not each.is_meta]
    return sum(tensor.nbytes for tensor in found)


def test_a_missing_tensor_is_named(safe_folder):
    """The folder and the first name."""
    rewrite(safe_folder, lambda tensors: tensors.pop(QKV))
    assert refusal(safe_folder) == f"{safe_folder}: tensor {QKV!r} is missing."


def test_an_unknown_tensor_is_named(safe_folder):
    """A prefix encoder, say, would change the answers."""
    rewrite(safe_folder, lambda tensors: tensors.update({"transformer.prefix_encoder.weight": torch.zeros(2)}))
    message = refusal(safe_folder)
    assert "model.safetensors" in message
    assert "'transformer.prefix_encoder.weight' is unknown" in message


def test_a_misshapen_tensor_is_named_with_both_shapes(safe_folder):
    """The configuration wins the argument."""
    rewrite(safe_folder, lambda tensors: tensors.update({QKV: torch.zeros(127, 64)}))
    message = refusal(safe_folder)
    assert f"{QKV!r} has shape [127, 64]; config.json asks for [128, 64]" in message
    assert "model.safetensors" in message


def test_a_quantized_tensor_is_named(safe_folder):
    """Integer levels without their scales are no weights."""
    rewrite(safe_folder, lambda tensors: tensors.update({QKV: torch.zeros(128, 64, dtype=torch.int8)}))
    assert f"{QKV!r} is int8, but config.json's quantization_bit does not say" in refusal(safe_folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -5])
def test_a_truncated_safetensors_file_is_named(safe_folder, kept):
    """An interrupted download, wherever it stopped."""
    file = safe_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file} is not a complete safetensors file" in refusal(safe_folder)


@pytest.mark.parametrize("kept", [0, 4, 1000, -5])
def test_a_truncated_torch_file_is_named(bin_folder, kept):
    """The same for the original layout; the other shard is fine."""
    file = bin_folder / SECOND
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file} is not a complete file of tensors" in refusal(bin_folder)


class Payload:
    """A pickle that would run code when read by an unsafe reader."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_without_running_it(bin_folder, writer, monkeypatch):
    """Weights only: neither the archive format nor a bare pickle builds anything but tensors."""
    monkeypatch.chdir(bin_folder)
    file = bin_folder / FIRST
    if writer == "torch":
        torch.save({"transformer.output_layer.weight": Payload()}, file)
    else:
        file.write_bytes(pickle.dumps({"transformer.output_layer.weight": Payload()}))
    message = refusal(bin_folder)
    assert f"{file} is not a complete file of tensors: " in message
    assert "weights_only" not in message
    assert not (bin_folder / "ran").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}], ids=str)
def test_a_torch_file_of_something_else_is_named(bin_folder, content):
    """Lists, numbers and unnamed tensors are no state."""
    torch.save(content, bin_folder / FIRST)
    assert str(bin_folder / FIRST) in refusal(bin_folder)


def test_a_missing_shard_is_named(bin_folder):
    """The index says it should be there."""
    (bin_folder / SECOND).unlink()
    assert f"{bin_folder / SECOND} is missing" in refusal(bin_folder)


def test_a_tensor_in_two_shards_is_named(bin_folder):
    """Which one would count is nobody's guess."""
    shards = [torch.load(bin_folder / name, weights_only=True) for name in (FIRST, SECOND)]
    name = next(iter(shards[0]))
    torch.save({**shards[1], name: shards[0][name]}, bin_folder / SECOND)
    assert f"Tensor {name!r} is in both" in refusal(bin_folder)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        json.dumps({"weight_map": {"a": "../other/model.bin"}}),
        json.dumps({"weight_map": {"a": "config.json"}}),
    ],
)
def test_an_index_that_is_none_is_named(bin_folder, content):
    """Broken, empty, or pointing out of the folder."""
    index = bin_folder / "pytorch_model.bin.index.json"
    index.write_text(content)
    assert str(index) in refusal(bin_folder)


def test_a_folder_without_weights_says_what_it_looked_for(safe_folder):
    """Only config.json and a tokenizer were copied."""
    (safe_folder / "model.safetensors").unlink()
    assert "holds no weights" in refusal(safe_folder)


def test_safetensors_are_preferred_to_pickles(bin_folder):
    """A folder with both layouts is read from the safe one, here sharded behind an index."""
    whole = load_file(DATA / "tiny" / "model.safetensors")
    names = sorted(whole)
    files = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: whole[name] for name in names if files[name] == file}, bin_folder / file)
    (bin_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    for name, tensor in load_model(bin_folder, torch.float32, "cpu").named_parameters():
        assert torch.equal(tensor, whole[name])


def test_an_odd_width_cannot_be_quantized_to_four_bits(tmp_path):
    """By the name of the width, before any weight is read; eight bits can be."""
    shape = replace(SHAPE, ffn_hidden_size=171, torch_dtype="float32")
    write_config(tmp_path, shape, "odd")
    save_file(dict(random_model(torch.float32, shape).named_parameters()), tmp_path / "model.safetensors")
    with pytest.raises(ConfigurationError, match=r"ffn_hidden_size is odd.*quantize to 8"):
        load_model(tmp_path, torch.float32, "cpu", quantize=4)
    assert load_model(tmp_path, torch.float32, "cpu", quantize=8).config.quantization_bit == 8
