"""What the operator's commands need: a Valkey server to go to, and somebody to call them as a person does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from services.cli.main import main
from tests.support.valkey import ValkeyServer, running_valkey


@pytest.fixture(scope="package")
def running() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def server(running: ValkeyServer) -> Iterator[ValkeyServer]:
    """A server without data."""
    yield running
    running.flush()


@pytest.fixture
def cli(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call a command on that server; its status, what it printed, and its errors."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["chatglm-cluster", *args, "--redis-url", server.url])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call
