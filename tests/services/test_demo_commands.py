"""The commands that make and measure the demo model, as a person calls them."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cluster.demo import CHECKPOINT
from cluster.model.checkpoint import inspect_checkpoint
from services.cli.main import app


def test_a_trained_model_comes_with_card_and_plot_and_its_faults_are_named(tmp_path: Path) -> None:
    """After one step it can be served and misses its targets, which is said and gives status 1."""
    folder = tmp_path / "model"
    done = CliRunner().invoke(app, ["model", "train-demo", str(folder), "--steps", "1", "--per-language", "1"])
    assert done.exit_code == 1, done.output
    assert "Targets missed" in done.output
    assert "recall over 6 turns" in done.output
    assert inspect_checkpoint(folder).problem == ""
    assert "| recall over 6 turns | 95% | 0.0% of 3 | 0.0% of 3 |" in (folder / "README.md").read_text(encoding="utf-8")
    assert (folder / "loss.svg").read_text().lstrip().startswith("<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_evaluation_prints_every_measure(tmp_path: Path) -> None:
    """For the packaged model when none is named."""
    done = CliRunner().invoke(app, ["model", "eval-demo", "--per-language", "1"])
    assert "ends by itself" in done.output
    assert "greedy" in done.output
    assert CHECKPOINT.exists()
