"""``chatglm-cluster down`` where there is nothing to do."""

from __future__ import annotations

from pathlib import Path

from tests.support.cluster import run_command


def test_down_says_that_nothing_runs_and_makes_nothing(tmp_path: Path) -> None:
    """On a folder that does not exist, and on one that nobody uses."""
    for folder in (tmp_path / "never", tmp_path):
        done = run_command("down", state_dir=folder)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"Nothing runs on {folder}.", "")
    assert not (tmp_path / "never").exists()
    assert [path for path in tmp_path.iterdir() if path.name != "lock"] == []


def test_env_prints_lines_that_a_shell_takes(tmp_path: Path) -> None:
    """Every line is an export, and secrets are among them."""
    lines = run_command("env", state_dir=tmp_path).stdout.splitlines()
    assert all(line.startswith("export ") and "=" in line for line in lines)
    names = {line.split()[1].split("=")[0] for line in lines}
    assert {"CHATGLM_CHANNEL_SECRET", "RAY_AUTH_TOKEN", "RAY_SERVE_ENABLE_HA_PROXY"} <= names
