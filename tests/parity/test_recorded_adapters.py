"""Prefixes and LoRA adapters change the answers as recorded."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.engine.deterministic import DeterministicRunner
from cluster.engine.runner import ModelRunner
from cluster.model.loader import load_model
from tests.fakes.stepping import Feed, Held, Stepper
from tests.parity.plain import plain_greedy, plain_logits
from tests.parity.recorded import DATA, assert_close, load_json, load_tensors, logits_of

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


@pytest.mark.parametrize("page_size", [4, 6, 16])
@pytest.mark.parametrize("runner_class", [ModelRunner, DeterministicRunner])
@pytest.mark.parametrize("name", PREFIXES)
def test_the_served_path_gives_the_recorded_answers_with_a_prefix(name, runner_class, page_size, tmp_path):
    """Rows of different lengths together, prefilled and decoded over pages, whether or not the prefix fills its own."""
    model = load_model(DATA / "tiny", torch.float32, "cpu", prefix=prefix_folder(name, tmp_path / "prefix"))
    steps = Stepper(runner_class(model, num_pages=128, page_size=page_size), scatter=1)
    cases, expected = load_json(name)["cases"], load_tensors(name)
    helds = [Held() for _ in cases]
    logits = logits_of(steps, [Feed(held, case["input_ids"]) for held, case in zip(helds, cases, strict=True)])
    assert_close(logits, torch.cat([expected[f"logits_{case['key']}"] for case in cases]))
    ends = [len(case["input_ids"]) for case in cases]
    fed = [int(part[-1].argmax()) for part in logits.split(ends)]
    answers = [[token] for token in fed]
    while rows := [row for row, answer in enumerate(answers) if len(answer) < 20 and answer[-1] not in STOPS]:
        drawn = steps.step([Feed(helds[row], answers[row][-1:]) for row in rows]).token_ids.tolist()
        for row, token in zip(rows, drawn, strict=True):
            answers[row].append(token)
    assert [case["greedy_20"] for case in cases] == answers


def test_a_runner_keeps_rows_and_no_encoder(tmp_path):
    """A projection of the 6B shape would hold some 470 MB for nothing."""
    model = load_model(DATA / "tiny", torch.float32, "cpu", prefix=prefix_folder(PREFIXES[1], tmp_path / "prefix"))
    runner = ModelRunner(model, num_pages=8, page_size=16)
    assert not any("prefix_encoder" in name for name, _ in runner.model.named_parameters())
    assert (runner.num_pages, runner.pool.num_pages) == (8, 9)


def test_a_prompt_in_chunks_sees_the_prefix(tmp_path):
    """Every chunk of it."""
    name = "ptuning_tiny"
    model = load_model(DATA / "tiny", torch.float32, "cpu", prefix=prefix_folder(name, tmp_path / "prefix"))
    steps, held = Stepper(ModelRunner(model, num_pages=64, page_size=4), scatter=2), Held()
    ids = load_json(name)["cases"][0]["input_ids"]
    parts = [logits_of(steps, [Feed(held, chunk)]) for chunk in (ids[:1], ids[1:6], ids[6:])]
    assert_close(torch.cat(parts), load_tensors(name)["logits_0"])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("runner_class", [ModelRunner, DeterministicRunner])
def test_the_served_path_computes_quantized_and_adapted_weights(runner_class, bits):
    """As the plain model does, an adapter kept apart included."""
    ids = load_json("ptuning_tiny")["cases"][0]["input_ids"]
    made = [load_model(DATA / "tiny", torch.float32, "cpu", quantize=bits, lora=LORA, merge=False) for _ in range(2)]
    steps = Stepper(runner_class(made[0], num_pages=64, page_size=4))
    assert_close(logits_of(steps, [Feed(Held(), ids)]), plain_logits(made[1], ids))
