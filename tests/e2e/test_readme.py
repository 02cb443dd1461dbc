"""Every command of the README works as written, against a running cluster."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import COMMAND, ClusterProcess
from tests.support.pages import ROOT, Page

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

README = Page("README.md")


def commands() -> list[str]:
    """Single shell commands, continuation lines joined."""
    return [line for block in README.blocks("bash") for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def run(command: str, cluster: ClusterProcess, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with the README's address, state folder and model folder replaced by the test's."""
    command = command.replace("127.0.0.1:8000", f"127.0.0.1:{cluster.port}")
    command = command.replace("--state-dir .state", f"--state-dir {cluster.state_dir}")
    command = re.sub(r"/tmp(?=/chatglm3-)", str(folder), command)  # noqa: S108 - taken out, not used
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CHATGLM_API_KEY": cluster.key}
    return subprocess.run(  # noqa: S602 - the README's own lines, as a person pastes them
        command, shell=True, env=environment, input="Hi\n\n", capture_output=True, text=True, timeout=120, check=False
    )


def test_every_shell_command_succeeds(cluster: ClusterProcess, tmp_path: Path) -> None:
    """Those that build the environment are checked as targets of the Makefile; the rest are run in order."""
    ran = 0
    for command in commands():
        if command.startswith("make "):
            subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, check=True)
            continue
        done = run(command, cluster, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        assert "error" not in done.stdout, (command, done.stdout)
        ran += 1
    assert ran >= 6


def test_the_python_example_prints_what_the_readme_says(cluster: ClusterProcess, tmp_path: Path) -> None:
    """Two turns with recall and a tool call, word for word; the second turn finds tokens in the cache."""
    (example, _), (printed,) = (
        README.blocks("python"),
        README.blocks("text"),
    )  # the library's needs no cluster: see its page's test
    script = tmp_path / "example.py"
    script.write_text(example.replace("127.0.0.1:8000", f"127.0.0.1:{cluster.port}"))
    done = run(f"{sys.executable} {script}", cluster, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed
    cached = [int(number) for number in re.findall(r"\((\d+) of", printed)]
    assert cached[0] == 0
    assert cached[1] > 0


def test_the_lines_that_up_prints_work_as_pasted(cluster: ClusterProcess, tmp_path: Path) -> None:
    """One line for curl, one for Python; neither needs anything but what is installed."""
    lines = [line for line in cluster.output.splitlines() if line.startswith("curl ") or " -c " in line]
    assert len(lines) == 2
    for line in lines:
        assert shutil.which(line.split()[0])
        done = run(line, cluster, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
