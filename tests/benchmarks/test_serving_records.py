"""What a load brought is read back as it was kept, and drawn per checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks import plot_serving
from tests.benchmarks.bench_serving import Load, append, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Runs on two checkpoints, of which one has no peer at 32 streams."""
    file = tmp_path / "runs.jsonl"
    for checkpoint in ("small", "wide"):
        for server, streams in (("ours", 1), ("peer", 1), ("ours", 1), ("ours", 32)):
            load = Load(tokens=640, seconds=1.5, first_s=[0.1], last_turn_first_s=[0.1, 0.2], gaps_s=[0.01, 0.03])
            append(file, checkpoint, server, streams, load)
    return file


def test_runs_are_read_back_as_they_were_kept(file: Path) -> None:
    """Raw, by checkpoint, server and streams, in the order in which they came."""
    found = read([file])
    assert list(found) == ["small", "wide"]
    assert {key: len(loads) for key, loads in found["small"].items()} == {
        ("ours", 1): 2,
        ("peer", 1): 1,
        ("ours", 32): 1,
    }
    assert found["wide"]["peer", 1][0].gaps_s == [0.01, 0.03]


def test_each_checkpoint_has_a_figure_of_equal_bytes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn twice from the same runs, where both servers were measured."""
    pytest.importorskip("matplotlib", reason="comes with the extra train")
    monkeypatch.setattr(sys, "argv", ["plot_serving", str(file), "--out", str(file.parent)])
    drawn = []
    for _ in range(2):
        plot_serving.main()
        drawn.append({path.name: path.read_bytes() for path in file.parent.glob("*.svg")})
    assert set(drawn[0]) == {"serving-small.svg", "serving-wide.svg"}
    assert drawn[0] == drawn[1]
