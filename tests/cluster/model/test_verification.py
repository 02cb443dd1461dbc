"""A checkpoint is tried from its sums to its answers, and a failed check says which."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cluster.demo import CHECKPOINT
from cluster.errors import CheckpointError
from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.model.checkpoint import MOST_PADDING, inspect_checkpoint, require_fit
from cluster.model.hashes import known_sums
from cluster.model.loader import load_model
from cluster.model.verification import perplexity, verify
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.cli.main import app
from tests.parity.recorded import DATA


@pytest.fixture
def folder(tmp_path):
    """A copy of the demo model to break."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))


def outcome(folder):
    """Name -> whether it passed, of the checks that ran."""
    return {check.name: check.passed for check in verify(folder)}


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_good_checkpoint_passes_every_check(folder):
    """With progress for the slow parts."""
    seen = []
    checks = list(verify(folder, lambda what, done, total: seen.append((what, done <= total))))
    assert {check.name: check.passed for check in checks} == dict.fromkeys(
        ("files", "tensors", "numbers", "perplexity", "answer"), True
    )
    assert {"reading model.safetensors", "loading", "answering"} <= {what for what, _ in seen}
    assert all(fine for _, fine in seen)


def test_the_command_says_what_it_found_and_ends_well(folder):
    """One line per check."""
    done = CliRunner().invoke(app, ["model", "verify", str(folder)])
    assert done.exit_code == 0, done.output
    assert "✓ perplexity" in done.output
    assert "Hello! How can I help you?" in done.output


def test_the_command_names_a_failed_check_and_ends_with_status_1(folder):
    """On stderr, after what was found."""
    rewrite(folder, lambda tensors: tensors["transformer.output_layer.weight"].normal_())
    done = CliRunner().invoke(app, ["model", "verify", str(folder)])
    assert done.exit_code == 1
    assert "✗ perplexity" in done.output
    assert "Failed: perplexity" in done.output


def test_a_file_of_another_sum_is_named(folder):
    """By SHA256SUMS in the folder; one bit is enough."""
    weights = folder / "model.safetensors"
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(weights.read_bytes()).hexdigest()}  {weights.name}\n")
    assert outcome(folder)["files"]
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    [check] = [check for check in verify(folder) if check.name == "files"]
    assert not check.passed
    assert "model.safetensors has the SHA-256 sum" in check.said


def test_a_listed_file_that_is_missing_fails(folder):
    """It cannot be read."""
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  other.safetensors\n")
    assert not outcome(folder)["files"]


@pytest.mark.parametrize("line", ["", "abc  model.safetensors", f"{'0' * 64}  ../other"])
def test_a_list_of_sums_that_is_none_is_refused(folder, line):
    """Broken, or pointing out of the folder."""
    (folder / "SHA256SUMS").write_text(f"{line}\n")
    with pytest.raises(CheckpointError, match="line 1"):
        known_sums(folder)


def test_sums_are_found_where_downloads_leave_them(folder, tmp_path):
    """In the name of a cache's blob, and in a download folder's metadata, where long enough to be one."""
    blob = tmp_path / ("a" * 64)
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "tokenizer.model.metadata").write_text(f"commit\n{'b' * 64}\n1.5\n")
    (notes / "config.json.metadata").write_text(f"commit\n{'c' * 40}\n1.5\n")
    found = {file.name: expected for file, expected in known_sums(folder).items()}
    assert found == {"model.safetensors": "a" * 64, "tokenizer.model": "b" * 64}


def test_nothing_is_read_after_tensors_that_do_not_fit(folder):
    """The name of the first is told."""
    rewrite(folder, lambda tensors: tensors.pop("transformer.output_layer.weight"))
    checks = list(verify(folder))
    assert [(check.name, check.passed) for check in checks] == [("files", True), ("tensors", False)]
    assert "'transformer.output_layer.weight' is missing" in checks[-1].said


def test_sums_are_compared_although_a_file_is_cut_off(folder):
    """Both checks fail, and both name the file."""
    weights = folder / "model.safetensors"
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(weights.read_bytes()).hexdigest()}  {weights.name}\n")
    weights.write_bytes(weights.read_bytes()[:300_000])
    checks = list(verify(folder))
    assert [(check.name, check.passed) for check in checks] == [("files", False), ("tensors", False)]
    assert all("model.safetensors" in check.said for check in checks)
    assert "fetch it again" in checks[1].said


def test_a_quantized_checkpoint_passes_every_check(folder, tmp_path):
    """Its levels are no floating numbers, its scales are."""
    ChatGLM3ForConditionalGeneration.from_pretrained(folder).quantize(8).save_pretrained(tmp_path / "quantized")
    shutil.copy(folder / "tokenizer.model", tmp_path / "quantized")
    assert set(outcome(tmp_path / "quantized").values()) == {True}


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (shutil.rmtree, r"config\.json does not exist"),
        (lambda folder: (folder / "tokenizer.model").unlink(), r"Cannot read the tokenizer model .*holds one"),
        (lambda folder: shutil.copy(DATA / "tiny" / "tokenizer.model", folder), "the tokenizer has 829 ids"),
        (lambda folder: rewrite(folder, lambda tensors: tensors.update(more=torch.zeros(1))), "'more' is unknown"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "model is not a folder"),
    ],
    ids=["nothing", "no tokenizer", "another tokenizer", "a tensor too many", "a file"],
)
def test_what_cannot_be_loaded_is_said_without_a_traceback(folder, break_it, words):
    """And the status is 1."""
    break_it(folder)
    done = CliRunner().invoke(app, ["model", "verify", str(folder)])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert re.search(f"✗ tensors: .*{words}", done.output)
    assert done.output.rstrip().endswith("Failed: tensors.")


def test_a_weight_that_is_no_number_is_named(folder):
    """And nothing is computed with it."""
    rewrite(folder, lambda tensors: tensors["transformer.output_layer.weight"][5].fill_(float("nan")))
    checks = list(verify(folder))
    assert [check.name for check in checks if not check.passed] == ["numbers"] == [checks[-1].name]
    assert "'transformer.output_layer.weight' holds NaN" in checks[-1].said


def test_a_tokenizer_of_another_model_is_refused(folder):
    """Too many ids, or so few that most rows would be padding."""
    config = inspect_checkpoint(folder).config
    require_fit(config.padded_vocab_size, config, folder)
    for ids in (config.padded_vocab_size + 1, config.padded_vocab_size - MOST_PADDING - 1):
        with pytest.raises(CheckpointError, match="padded_vocab_size"):
            require_fit(ids, config, folder)


def test_perplexity_of_equal_logits_is_the_number_of_rows():
    """A model that finds every id equally likely guesses."""
    model = load_model(CHECKPOINT, torch.float32, "cpu")
    tokenizer = ChatGLM3Tokenizer.from_pretrained(CHECKPOINT)
    assert perplexity(model, tokenizer) < 10
    model.transformer.output_layer.weight.data.zero_()
    assert perplexity(model, tokenizer) == pytest.approx(model.config.padded_vocab_size)
