"""LoRA adapters are applied as PEFT defines them, or refused by the name of what does not fit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from cluster.errors import CheckpointError, ConfigurationError
from cluster.model.loader import linear_shapes, load_model
from cluster.model.lora import LoraLinear, load_lora, merge_linears
from tests.parity.plain import plain_logits
from tests.parity.recorded import DATA

TINY = DATA / "tiny"
SHAPES = linear_shapes(load_model(TINY, torch.float32, "cpu").config)
IDS = [821, 823, 826, 585, 13, 490, 330, 827]
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["query_key_value"], "bias": "none"}
DENSE = "transformer.encoder.layers.1.self_attention.dense"


def write_adapter(folder, targets=("query_key_value",), *, rank=4, change=None, layers=None, **fields):
    """A random adapter of every linear whose name ends in one of ``targets``; ``change`` edits its tensors."""
    folder.mkdir(exist_ok=True)
    source, tensors = torch.Generator().manual_seed(3), {}
    for name, (out, width) in SHAPES.items():
        is_layer = layers is None or any(f".layers.{layer}." in name for layer in layers)
        if name.endswith(tuple(targets)) and is_layer:
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, width, generator=source) * 0.1
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank, generator=source) * 0.1
    if change:
        change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {**CONFIG, "target_modules": list(targets), "r": rank, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def added(folder, name):
    """What an adapter adds to a weight, in float64."""
    pair = load_lora(folder, SHAPES)[name]
    return pair.scale * (pair.up.double() @ pair.down.double())


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        load_model(TINY, torch.float32, "cpu", lora=folder)
    return str(caught.value)


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize(
    "targets",
    [("dense",), ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"), ("output_layer", "mlp.dense_4h_to_h")],
)
def test_merged_and_kept_apart_are_the_same_model(targets, rank, tmp_path):
    """For any rank and any linears; merging later is merging."""
    folder = write_adapter(tmp_path / "lora", targets, rank=rank, lora_alpha=7)
    merged = load_model(TINY, torch.float32, "cpu", lora=folder)
    apart = load_model(TINY, torch.float32, "cpu", lora=folder, merge=False)
    plain = load_model(TINY, torch.float32, "cpu")
    expected = plain_logits(merged, IDS)
    torch.testing.assert_close(plain_logits(apart, IDS), expected, rtol=1e-4, atol=1e-4)
    assert (plain_logits(plain, IDS) - expected).abs().max() > 0.01
    merge_linears(apart)
    assert not any(isinstance(module, LoraLinear) for module in apart.modules())
    torch.testing.assert_close(plain_logits(apart, IDS), expected, rtol=1e-4, atol=1e-4)


def test_the_weight_is_moved_by_the_scaled_product(tmp_path):
    """W + alpha / r * B A."""
    folder = write_adapter(tmp_path / "lora", ("dense",), rank=2, lora_alpha=3)
    moved, plain = (
        load_model(TINY, torch.float32, "cpu", lora=lora).get_submodule(DENSE).weight for lora in (folder, None)
    )
    pair = load_lora(folder, SHAPES)[DENSE]
    assert pair.scale == 1.5
    torch.testing.assert_close(moved.double() - plain.double(), added(folder, DENSE), rtol=0, atol=1e-6)


def test_rank_stabilised_adapters_divide_by_the_root(tmp_path):
    """PEFT's use_rslora."""
    folder = write_adapter(tmp_path / "lora", rank=4, lora_alpha=6, use_rslora=True)
    assert {pair.scale for pair in load_lora(folder, SHAPES).values()} == {6 / math.sqrt(4)}


def test_patterns_choose_rank_and_alpha_of_some_linears(tmp_path):
    """By the end of a name."""

    def smaller(tensors):
        for side, rows in (("A", slice(0, 2)), ("B", (slice(None), slice(0, 2)))):
            name = f"base_model.model.{DENSE}.lora_{side}.weight"
            tensors[name] = tensors[name][rows].contiguous()

    patterns = {"rank_pattern": {"layers.1.self_attention.dense": 2}, "alpha_pattern": {"dense": 10}}
    pairs = load_lora(
        write_adapter(tmp_path / "lora", ("dense", "query_key_value"), change=smaller, **patterns), SHAPES
    )
    assert pairs[DENSE].scale == 10 / 2
    assert pairs[DENSE.replace("layers.1", "layers.0")].scale == 10 / 4
    assert pairs[DENSE.replace("dense", "query_key_value")].scale == 16 / 4


def test_some_blocks_alone_can_be_adapted(tmp_path):
    """By layers_to_transform."""
    folder = write_adapter(tmp_path / "lora", layers=(0, 2), layers_to_transform=[0, 2], layers_pattern="layers")
    assert len(load_lora(folder, SHAPES)) == 2


@pytest.mark.parametrize("targets", ["all-linear", r".*query_key_value", None])
def test_without_a_list_of_targets_the_tensors_say_what_is_adapted(targets, tmp_path):
    """A word or an expression of PEFT's; absent means query_key_value."""
    assert len(load_lora(write_adapter(tmp_path / "lora", target_modules=targets), SHAPES)) == 3


def test_exceptions_from_a_list_of_targets_are_none_that_are_missing(tmp_path):
    """PEFT's exclude_modules."""
    folder = write_adapter(tmp_path / "lora", layers=(0,), exclude_modules=r".*layers\.[12]\..*")
    assert len(load_lora(folder, SHAPES)) == 1


def test_older_files_are_read(tmp_path):
    """A torch file, with the adapter's name in the tensors' names."""
    folder = write_adapter(tmp_path / "lora")
    expected = load_lora(folder, SHAPES)
    tensors = {}
    for name, pair in expected.items():
        tensors[f"base_model.model.{name}.lora_A.default.weight"] = pair.down
        tensors[f"base_model.model.{name}.lora_B.default.weight"] = pair.up
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert load_lora(folder, SHAPES).keys() == expected.keys()


def test_an_adapter_is_merged_before_weights_are_quantized(tmp_path):
    """So that levels are those of the adapted model."""
    folder = write_adapter(tmp_path / "lora")
    both = load_model(TINY, torch.float32, "cpu", lora=folder, quantize=8)
    dense = load_model(TINY, torch.float32, "cpu", lora=folder)
    name = DENSE.replace("dense", "query_key_value")
    away = (both.get_submodule(name).dequantized() - dense.get_submodule(name).weight).abs()
    assert (away <= 0.51 * both.get_submodule(name).weight_scale[:, None]).all()


def test_beside_quantized_weights_an_adapter_can_be_kept_and_not_merged(tmp_path):
    """There is nothing to add to."""
    folder = write_adapter(tmp_path / "lora")
    model = load_model(TINY, torch.float32, "cpu", lora=folder, quantize=8, merge=False)
    assert plain_logits(model, IDS).isfinite().all()
    with pytest.raises(CheckpointError, match="is quantized"):
        merge_linears(model)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["output_layer"]),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("layer_replication", [[0, 2]]),
        ("init_lora_weights", "pissa"),
        ("target_parameters", ["a"]),
        ("trainable_token_indices", [1]),
        ("r", 0),
        ("r", 2.5),
        ("r", "4"),
        ("lora_alpha", None),
        ("lora_alpha", float("nan")),
        ("target_modules", []),
        ("target_modules", [3]),
        ("layers_to_transform", "0"),
        ("layers_pattern", "h"),
        ("alpha_pattern", {"(a+)+": 1}),
        ("rank_pattern", [1]),
    ],
)
def test_what_is_not_computed_is_refused_by_name(field, value, tmp_path):
    """Never left out in silence."""
    assert field in refusal(write_adapter(tmp_path / "lora", **{field: value}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.update({f"base_model.model.{DENSE}.lora_A.weight": torch.zeros(4, 64)}), DENSE),
        (lambda tensors: tensors.update({"base_model.model.other.lora_A.weight": torch.zeros(4, 64)}), "'other'"),
        (lambda tensors: tensors.update({"transformer.lora_A.weight": torch.zeros(4, 64)}), "not of a LoRA adapter"),
        (lambda tensors: tensors.pop(max(tensors)), "is missing"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if ".2." in name], "are missing"),
        (lambda tensors: tensors.update({max(tensors): torch.zeros(127, 4)}), "has shape [127, 4]"),
        (lambda tensors: tensors.update({min(tensors): torch.zeros(5, 64)}), "has shape [5, 64]"),
        (lambda tensors: tensors[max(tensors)].fill_(float("nan")), "holds NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, said, tmp_path):
    """Other linears, other shapes, half a pair, too few, no numbers."""
    assert said in refusal(write_adapter(tmp_path / "lora", change=change))


def test_a_target_that_the_model_does_not_have_is_named(tmp_path):
    """An adapter of another architecture."""
    assert "'q_proj'" in refusal(write_adapter(tmp_path / "lora", target_modules=["query_key_value", "q_proj"]))


def test_a_folder_that_holds_no_adapter_says_what_is_looked_for(tmp_path):
    """The usual mistake: the wrong folder."""
    assert "adapter_config.json" in refusal(tmp_path)
    folder = write_adapter(tmp_path / "lora")
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refusal(folder)


def test_merging_into_stored_levels_is_refused(tmp_path):
    """By default such an adapter is kept apart instead."""
    quantized = tmp_path / "model"
    quantized.mkdir()
    model = load_model(TINY, torch.float16, "cpu", quantize=8)
    save_file({name: tensor.data for name, tensor in model.named_parameters()}, quantized / "model.safetensors")
    fields = json.loads((TINY / "config.json").read_text()) | {"quantization_bit": 8}
    (quantized / "config.json").write_text(json.dumps(fields))
    lora = write_adapter(tmp_path / "lora")
    with pytest.raises(ConfigurationError, match="quantized weights"):
        load_model(quantized, torch.float32, "cpu", lora=lora, merge=True)
    adapted = load_model(quantized, torch.float32, "cpu", lora=lora)
    assert sum(isinstance(module, LoraLinear) for module in adapted.modules()) == 3
