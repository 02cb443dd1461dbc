"""A tuned prefix goes over the base model it was tuned for, or is refused by the name of what does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from cluster.errors import CheckpointError
from cluster.model.loader import load_model
from tests.parity.recorded import DATA

TINY = DATA / "tiny"
NAME = "transformer.prefix_encoder."
ROWS = f"{NAME}embedding.weight"


def write_prefix(folder, rows=5, width=192, *, projected=False, config=None, **others):
    """A random prefix over the tiny model; ``others`` are added under the prefix's name."""
    folder.mkdir()
    tensors = {ROWS: torch.randn(rows, width)}
    if projected:
        shapes = {
            "trans.0.weight": (64, 192),
            "trans.0.bias": (64,),
            "trans.2.weight": (192, 64),
            "trans.2.bias": (192,),
        }
        tensors |= {NAME + name: torch.randn(shape) for name, shape in shapes.items()}
    save_file(tensors | others, folder / "model.safetensors")
    if config is not None:
        fields = json.loads((TINY / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(fields))
    return folder


def refusal(folder, base=TINY):
    with pytest.raises(CheckpointError) as caught:
        load_model(base, torch.float32, "cpu", prefix=folder)
    return str(caught.value)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prefix_has_its_rows_in_the_models_dtype(dtype, projected, tmp_path):
    """One pair of key and value per layer and row; its encoder stays in float32."""
    folder = write_prefix(
        tmp_path / "prefix", 7, projected=projected, config={"pre_seq_len": 7, "prefix_projection": projected}
    )
    model = load_model(TINY, dtype, "cpu", prefix=folder)
    assert model.prefix().shape == (3, 7, 2, 2, 16)
    assert model.prefix().dtype is dtype
    assert model.config.pre_seq_len == 7
    assert {each.dtype for each in model.transformer.prefix_encoder.parameters()} == {torch.float32}
    assert load_model(TINY, dtype, "cpu").prefix() is None


def test_rows_are_cut_into_layers_keys_and_values(tmp_path):
    """Entries 2 l and 2 l + 1 of a row are the key and the value of layer l."""
    folder = write_prefix(tmp_path / "prefix", 2)
    model = load_model(TINY, torch.float32, "cpu", prefix=folder)
    rows = model.transformer.prefix_encoder.embedding.weight.view(2, 6, 2, 16)
    assert torch.equal(model.prefix()[1, :, 0], rows[:, 2])
    assert torch.equal(model.prefix()[1, :, 1], rows[:, 3])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"width": 190}, "shape [5, 192]"),
        ({"rows": 0}, "missing or empty"),
        ({"config": {"pre_seq_len": 6}}, "pre_seq_len is 6"),
        ({"config": {"pre_seq_len": 5, "prefix_projection": True}}, "no projection"),
        ({"transformer.output_layer.weight": torch.zeros(2)}, "is of no prefix"),
        ({f"{NAME}trans.0.weight": torch.zeros(64, 192)}, "is missing"),
        ({f"{NAME}other": torch.zeros(2)}, "is of no prefix"),
    ],
)
def test_a_prefix_that_does_not_fit_is_refused(wrong, said, tmp_path):
    """Another model's, half of one, or more than one."""
    assert said in refusal(write_prefix(tmp_path / "prefix", **wrong))


def test_a_prefix_that_is_no_number_is_named(tmp_path):
    """It would spoil every answer."""
    assert "holds NaN" in refusal(write_prefix(tmp_path / "prefix", **{ROWS: torch.full((5, 192), float("nan"))}))


def test_a_checkpoint_takes_one_prefix(tmp_path):
    """Its own, or one over it."""
    base = write_prefix(tmp_path / "base", config={"pre_seq_len": 5})
    whole = {name: each.data for name, each in load_model(TINY, torch.float32, "cpu", prefix=base).named_parameters()}
    save_file(whole, base / "model.safetensors")
    load_model(base, torch.float32, "cpu")
    assert "has a prefix already" in refusal(write_prefix(tmp_path / "prefix"), base)


def test_a_base_model_whose_configuration_promises_a_prefix_is_told_of(tmp_path):
    """What tuning programs are started with."""
    folder = write_prefix(tmp_path / "model", config={"pre_seq_len": 5})
    (folder / "model.safetensors").write_bytes((TINY / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="may be a base model"):
        load_model(folder, torch.float32, "cpu")
