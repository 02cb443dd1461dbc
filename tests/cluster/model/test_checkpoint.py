"""Checkpoints are described from their headers, and random ones are written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cluster.errors import ConfigurationError
from cluster.model import random_checkpoint
from cluster.model.checkpoint import SIZES, inspect_checkpoint, write_random_checkpoint
from cluster.model.loader import load_model
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from cluster.tokenizer.training import train_tokenizer

DATA = Path(__file__).parents[2] / "parity" / "data"


def weights(folder):
    return dict(load_model(folder, torch.float32, "cpu").named_parameters())


def test_a_good_checkpoint_is_described():
    """Shape, memory per dtype, and that it can be served."""
    report = inspect_checkpoint(DATA / "tiny-bin")
    assert report.can_be_served
    assert report.problem == ""
    assert report.context_length == 1024
    assert report.num_parameters == sum(tensor.numel() for tensor in weights(DATA / "tiny-bin").values())
    assert report.weight_bytes["float32"] == 2 * report.weight_bytes["bfloat16"] == 4 * report.num_parameters
    assert report.kv_bytes_per_token == {"float32": 768, "bfloat16": 384, "float16": 384}
    assert report.stored_dtypes == ("float16",)
    assert [file.name for file in report.files] == [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    assert report.vocab_size == 829


def test_a_folder_that_is_no_checkpoint_is_a_report_and_not_an_error(tmp_path):
    """The command prints the reason."""
    report = inspect_checkpoint(tmp_path / "nowhere")
    assert not report.can_be_served
    assert "config.json does not exist" in report.problem
    assert report.context_length == 0


def test_what_was_learnt_before_a_problem_is_kept(tmp_path):
    """A checkpoint without its tokenizer still has a shape and a size."""
    folder = Path(shutil.copytree(DATA / "tiny", tmp_path / "tiny"))
    (folder / "tokenizer.model").unlink()
    report = inspect_checkpoint(folder)
    assert "tokenizer.model" in report.problem
    assert report.num_parameters
    assert report.files


def test_a_tokenizer_larger_than_the_embedding_is_a_problem(tmp_path):
    """Its last ids would have no row."""
    folder = write_random_checkpoint(tmp_path / "model", "tiny")
    train_tokenizer(folder, 830)
    assert (
        "the tokenizer has 839 ids, but padded_vocab_size in config.json is 832" in inspect_checkpoint(folder).problem
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_random_checkpoint_can_be_served(tmp_path, dtype):
    """Published names and fields, in the asked dtype and context."""
    folder = write_random_checkpoint(tmp_path / "model", "tiny", dtype=dtype, context=256)
    report = inspect_checkpoint(folder)
    assert report.problem == ""
    assert (report.context_length, report.stored_dtypes) == (256, (dtype,))
    published = json.loads((DATA / "tiny" / "config.json").read_text())
    assert json.loads((folder / "config.json").read_text()).keys() | {"transformers_version"} == published.keys()


def test_the_seed_decides_the_weights(tmp_path):
    """Equal seeds, equal weights; another seed, another model."""
    first, again, other = (
        weights(write_random_checkpoint(tmp_path / str(number), "tiny", seed)) for number, seed in enumerate((7, 7, 8))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_stop_ids_are_likelier_than_others(tmp_path):
    """Their rows of the output layer are longer, so answers end."""
    folder = write_random_checkpoint(tmp_path / "model", "tiny")
    stops = list(ChatGLM3Tokenizer.from_pretrained(folder).stop_ids)
    lengths = weights(folder)["transformer.output_layer.weight"].norm(dim=-1)
    assert (lengths[stops] > 1.2 * lengths.median()).all()


def test_a_large_checkpoint_is_written_in_shards(tmp_path, monkeypatch):
    """Peak memory is one file; the index holds every name."""
    whole = weights(write_random_checkpoint(tmp_path / "whole", "tiny"))
    monkeypatch.setattr(random_checkpoint, "_SHARD_BYTES", 150_000)
    folder = write_random_checkpoint(tmp_path / "shards", "tiny")
    report = inspect_checkpoint(folder)
    assert report.problem == ""
    assert len(report.files) > 2
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(folder).items())


def test_progress_ends_at_the_whole(tmp_path):
    """Bytes written so far and in all, rising."""
    seen: list[tuple[int, int]] = []
    write_random_checkpoint(tmp_path / "model", "tiny", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (seen[0][1], seen[0][1])


def test_a_failure_leaves_nothing_behind(tmp_path):
    """No half-written folder is taken for a checkpoint."""

    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "model", "tiny", progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    """An empty one may be filled."""
    write_random_checkpoint(tmp_path, "tiny")
    with pytest.raises(ConfigurationError, match="not empty"):
        write_random_checkpoint(tmp_path, "tiny")


@pytest.mark.parametrize(
    ("wrong", "named"), [({"size": "huge"}, "size"), ({"dtype": "int8"}, "dtype"), ({"context": 0}, "context")]
)
def test_a_wrong_argument_is_named(tmp_path, wrong, named):
    """Before anything is written."""
    with pytest.raises(ConfigurationError, match=f"^{named} must be"):
        write_random_checkpoint(**{"out": tmp_path / "model", "size": "tiny", **wrong})
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_what_their_names_promise():
    """A demonstration of a few million parameters, and the published 6B shape."""
    counts = {name: config.num_parameters() for name, (config, _) in SIZES.items()}
    assert 2_000_000 < counts["demo"] < 4_000_000
    assert counts["6b"] == 6_243_584_000
    assert all(pieces + 9 <= config.padded_vocab_size for config, pieces in SIZES.values())
