"""Prefixes and LoRA adapters change the answers as recorded."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.model.loader import load_model
from tests.parity.plain import plain_greedy, plain_logits
from tests.parity.recorded import DATA, assert_close, load_json, load_tensors

LORA = DATA / "goldens" / "lora_tiny"
STOPS = set(load_json("generate_tiny")["eos_token_id"])
PREFIXES = ["ptuning_tiny", "ptuning_projection_tiny"]


def prefix_of(name):
    """The recorded tensors of a prefix, by their published names."""
    return {key: each for key, each in load_tensors(name).items() if key.startswith("transformer.prefix_encoder")}


def prefix_folder(name, folder):
    """A folder as a tuning program leaves it: the prefix alone."""
    folder.mkdir()
    save_file(prefix_of(name), folder / "model.safetensors")
    return folder


def tuned_folder(name, folder):
    """A whole checkpoint with the prefix in it."""
    shutil.copytree(DATA / "tiny", folder)
    save_file(load_file(DATA / "tiny" / "model.safetensors") | prefix_of(name), folder / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text()) | load_json(name)["config_overrides"]
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def assert_recorded(model, cases, expected):
    """Logits of every position, and greedy ids."""
    for case in cases:
        assert_close(plain_logits(model, case["input_ids"]), expected[f"logits_{case['key']}"])
        assert case["greedy_20"] == plain_greedy(model, case["input_ids"], STOPS, 20)
    assert len(cases) == 2


@pytest.mark.parametrize("name", PREFIXES)
def test_a_prefix_over_a_base_model_gives_the_recorded_answers(name, tmp_path):
    """From a folder that holds the prefix encoder's tensors and nothing else."""
    model = load_model(DATA / "tiny", torch.float32, "cpu", prefix=prefix_folder(name, tmp_path / "prefix"))
    assert_recorded(model, load_json(name)["cases"], load_tensors(name))


@pytest.mark.parametrize("name", PREFIXES)
def test_a_whole_prefix_tuned_checkpoint_gives_the_recorded_answers(name, tmp_path):
    """Its config.json says how many rows there are, and whether they are projected."""
    model = load_model(tuned_folder(name, tmp_path / "tuned"), torch.float32, "cpu")
    assert_recorded(model, load_json(name)["cases"], load_tensors(name))


@pytest.mark.parametrize("merge", [True, False])
def test_a_lora_adapter_gives_the_recorded_answers(merge):
    """Merged into the weights, or kept apart."""
    expected = json.loads((LORA / "expected.json").read_text())
    model = load_model(DATA / "tiny", torch.float32, "cpu", lora=LORA, merge=merge)
    assert_recorded(model, expected["cases"], load_file(LORA / "expected.safetensors"))
