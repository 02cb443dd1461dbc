"""Of a run nothing is left but the state folder, whether its driver ends or is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import ConfigurationError
from services.processes import MARK, marked
from services.runs import end_run, new_run
from services.state import Endpoint, Run, StateFolder
from services.takeover import take_over
from tests.support.waiting import wait_until

DRIVER = """
import signal, subprocess, sys
from pathlib import Path
from services.runs import new_run
from services.processes import MARK
from services.state import StateFolder
state = StateFolder(Path(sys.argv[1]))
state.acquire()
with new_run(state, "") as run:
    session = Path(run.folder, "session_x")
    (session / "logs").mkdir(parents=True)
    (session / "logs" / "serve.log").write_text("why it ended")
    Path(run.folder, "session_latest").symlink_to(session)
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    subprocess.Popen(child, env={MARK: run.id}, stdout=subprocess.DEVNULL)
    print(run.folder, flush=True)
    if "deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print("ready", flush=True)
    signal.pause()
    signal.pause()
"""


class Driver:
    """Another process with a run on a state folder, and one process of that run."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", DRIVER, str(folder), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.folder = Path(self.process.stdout.readline().strip())
        assert self.process.stdout.readline() == "ready\n"
        run = StateFolder(folder).read_run()
        assert run is not None
        self.run = run
        wait_until(lambda: len(marked(run.id)) == 1, what="its process")

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()
        self.process.communicate()


def assert_nothing_is_left(driver: Driver, state: StateFolder) -> None:
    """No process, no folder, no record; the logs are kept."""
    assert marked(driver.run.id) == set()
    assert not driver.folder.exists()
    assert state.read_run() is None
    assert (state.ray_logs / "serve.log").read_text() == "why it ended"
    assert not state.ray_logs.is_symlink()


def test_an_orderly_end_leaves_logs_alone(tmp_path: Path) -> None:
    """While it lasts, its logs are found in the same place, and its folder is private."""
    state, driver = StateFolder(tmp_path), Driver(tmp_path)
    assert (state.ray_logs / "serve.log").exists()
    assert driver.folder.stat().st_mode & 0o077 == 0
    driver.process.terminate()
    driver.process.communicate()
    assert_nothing_is_left(driver, state)


def test_a_killed_run_is_removed_by_whoever_takes_the_folder(tmp_path: Path) -> None:
    """One process is counted; a second time there is nothing."""
    state, driver = StateFolder(tmp_path), Driver(tmp_path)
    driver.kill()
    state.write_endpoint(Endpoint("http://x", "unix:///x", "m", "t"))
    assert take_over(state) is False
    assert end_run(state) == 1
    assert_nothing_is_left(driver, state)
    assert not (tmp_path / "endpoint.json").exists()
    assert end_run(state) == 0
    state.release()


def test_the_next_run_removes_what_the_killed_one_left(tmp_path: Path) -> None:
    """Without a word from anybody."""
    state, driver = StateFolder(tmp_path), Driver(tmp_path)
    driver.kill()
    state.acquire()
    with new_run(state, "") as run:
        assert run.id != driver.run.id
        assert marked(driver.run.id) == set()
        assert not driver.folder.exists()
    state.release()


def test_a_run_that_goes_on_is_stopped_in_order(tmp_path: Path) -> None:
    """Its driver is asked, and has removed everything before the folder is taken."""
    state, driver = StateFolder(tmp_path), Driver(tmp_path)
    assert take_over(state) is True
    assert_nothing_is_left(driver, state)
    assert driver.process.wait() == 0
    state.release()
    driver.kill()


def test_a_driver_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """And what it leaves is then removed as after any kill -9."""
    state, driver = StateFolder(tmp_path), Driver(tmp_path, "deaf")
    assert take_over(state, orderly_end_s=0.3) is True
    assert driver.process.wait() == -9
    assert end_run(state) == 1
    assert_nothing_is_left(driver, state)
    state.release()
    driver.kill()


def test_a_cluster_killed_elsewhere_is_not_forgotten(tmp_path: Path) -> None:
    """Its application still runs in the Ray cluster it had joined, so that `down` has something to remove."""
    state = StateFolder(tmp_path)
    state.acquire()
    state.write_run(Run("abc", 1, 1, str(tmp_path / "none"), "10.0.0.1:6379"))
    with pytest.raises(ConfigurationError, match="chatglm-cluster down"), new_run(state, ""):
        pass
    assert state.read_run() is not None
    assert end_run(state) == 0
    with new_run(state, "10.0.0.1:6379") as run:
        assert not Path(run.folder).exists()
    assert state.read_run() is None
    state.release()


def test_the_mark_is_the_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One inherited from another cluster, in whose terminal `up` was typed, is replaced."""
    from services.ray_environment import prepare

    monkeypatch.setattr(os, "environ", {MARK: "somebody's", "CHATGLM_CHANNEL_SECRET": "s"})
    prepare(Run("abc", 1, 1, str(tmp_path), "10.0.0.1:6379"))
    assert os.environ[MARK] == "abc"
