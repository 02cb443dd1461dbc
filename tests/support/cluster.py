"""A real cluster for tests: the installed command in a process of its own, with everything it starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from cluster.demo import MODEL_NAME
from services.ports import unused_port
from tests.support.waiting import wait_until

MODEL = MODEL_NAME  # what a cluster serves that was told nothing
COMMAND = Path(sys.executable).parent / "chatglm-cluster"
START_TIMEOUT_S = 150.0


class ClusterProcess:
    """``chatglm-cluster up`` on a state folder; ``start`` after ``kill_everything`` starts it again."""

    command: tuple[str, ...] = (str(COMMAND),)

    def __init__(self, state_dir: Path, *options: str) -> None:
        self.state_dir = state_dir
        self.port = unused_port()
        self.environment: dict[str, str] = {}
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._log = state_dir.parent / "up.log"

    @property
    def url(self) -> str:
        """Where its gateways answer."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """Everything it has printed since its last start."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def key(self) -> str:
        """The API key it printed."""
        match = re.search(r"API key\s+(sk-\w+)", self.output)
        assert match, self.output
        return match[1]

    @property
    def redis_url(self) -> str:
        """Its store."""
        return str(msgspec.json.decode((self.state_dir / "endpoint.json").read_bytes())["redis_url"])

    def status(self) -> dict[str, Any]:
        """What ``/status`` tells its operator."""
        token = msgspec.json.decode((self.state_dir / "endpoint.json").read_bytes())["operator_token"]
        reply = httpx.get(f"{self.url}/status", headers={"authorization": f"Bearer {token}"}, timeout=10)
        return dict(reply.raise_for_status().json())

    def serves(self, replicas: int, *, without: int = 0) -> bool:
        """Whether so many replicas take turns and no others are left, least of all the process ``without``."""
        status = self.status()
        pids = [replica["pid"] for replica in status["replicas"]]
        return bool(status["serving"] == replicas == len(pids) and without not in pids)

    def start(self) -> None:
        """Start it and wait until it has printed its key."""
        self.begin()
        wait_until(self._is_up_or_dead, timeout_s=START_TIMEOUT_S, what="the cluster starts")
        assert self._process is not None
        assert self._process.poll() is None, self.output

    def begin(self) -> None:
        """Start it and do not wait."""
        arguments = ["up", "--state-dir", str(self.state_dir), "--port", str(self.port), *self._options]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self.command, *arguments],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_up_or_dead(self) -> bool:
        assert self._process is not None
        return "API key" in self.output or self._process.poll() is not None

    def processes(self) -> list[psutil.Process]:
        """The command and all its descendants, alive now."""
        assert self._process is not None
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def named(self, part: str) -> list[psutil.Process]:
        """Its processes whose command line holds ``part``."""
        return [p for p in self.processes() if part in " ".join(_command_line(p))]

    def kill_everything(self) -> None:
        """Send kill -9 to every process of the cluster."""
        victims = self.processes()
        for victim in victims:
            _kill(victim)
        psutil.wait_procs(victims, timeout=10)
        assert self._process is not None
        self._process.wait()

    def kill_driver(self) -> None:
        """Send kill -9 to the command alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def send(self, number: int) -> None:
        """Send a signal to the command; SIGINT goes to its whole process group, as a terminal's Ctrl-C does."""
        assert self._process is not None
        kill = os.killpg if number == signal.SIGINT else os.kill
        kill(self._process.pid, number)

    def wait(self) -> None:
        """Until the command has ended."""
        assert self._process is not None
        self._process.wait(timeout=60)

    def stop(self, number: int = signal.SIGINT) -> list[psutil.Process]:
        """End it as Ctrl-C does; returns processes that are still there afterwards."""
        if self._process is None or self._process.poll() is not None:
            return []
        mine = self.processes()
        self.send(number)
        self.wait()
        deadline = time.monotonic() + 10
        while (alive := _alive(mine)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in alive:
            _kill(process)
        return alive

    def client(self, **options: object) -> OpenAI:
        """The official client, without retries of its own."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60, **options)

    def metrics(self) -> dict[str, float]:
        """Sums over all processes by sample name, other labels in braces."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics").text):
            for sample in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "process")
                name = f"{sample.name}{{{labels}}}" if labels else sample.name
                sums[name] = sums.get(name, 0.0) + sample.value
        return sums


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; an ended process that nobody has waited for yet does not."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def run_command(*arguments: str, state_dir: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Another ``chatglm-cluster`` command on the same state folder."""
    environment = {**os.environ, "CHATGLM_STATE_DIR": str(state_dir)}
    return subprocess.run(
        [COMMAND, *arguments], env=environment, input=text, capture_output=True, text=True, timeout=60, check=False
    )
