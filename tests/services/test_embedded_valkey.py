"""The embedded store: data that survives, and a server that nobody else reaches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from cluster.errors import ConfigurationError
from services.embedded import START_TIMEOUT_S, EmbeddedValkey

pytestmark = pytest.mark.valkey


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path that is short enough for a socket, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="vk") as folder:
        yield Path(folder, "valkey.sock")


def client(server: EmbeddedValkey) -> redis.Redis:
    """A client of the server."""
    return redis.Redis.from_url(server.url)


def test_data_survives_a_restart(tmp_path: Path, socket: Path) -> None:
    """What was written before stop is there after start, wherever the socket is by then."""
    server = EmbeddedValkey(tmp_path / "valkey", socket)
    server.start()
    with client(server) as first:
        first.set("name", "Anna")
    server.stop()
    server = EmbeddedValkey(tmp_path / "valkey", socket.with_name("other.sock"))
    server.start()
    with client(server) as second:
        assert second.get("name") == b"Anna"
    server.stop()


class SlowToStart(EmbeddedValkey):
    """A server that answers in one way at first, while ten seconds pass at each look; as it does in truth later."""

    answer: Exception
    looks = 0
    now = 0.0

    def _client(self) -> redis.Redis:
        if self.looks == 10:
            return super()._client()
        self.looks += 1
        self.now += 10.0
        raise self.answer


@pytest.fixture
def slow(tmp_path: Path, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowToStart]:
    server = SlowToStart(tmp_path / "valkey", socket)
    clock = SimpleNamespace(monotonic=lambda: server.now, sleep=time.sleep)
    monkeypatch.setattr("services.embedded.time", clock)
    yield server
    server.stop()


def test_however_much_data_there_is_it_is_read(slow: SlowToStart) -> None:
    """A server that says it is loading has started: its patience is for one that says nothing."""
    slow.answer = redis.BusyLoadingError("loading")
    slow.start()
    assert slow.now > 2 * START_TIMEOUT_S
    with client(slow) as connected:
        assert connected.ping()


def test_a_server_that_says_nothing_is_given_up_and_ended(slow: SlowToStart) -> None:
    """The log is named."""
    slow.answer = redis.ConnectionError("nobody")
    with pytest.raises(ConfigurationError, match=r"did not start; its log is .*valkey\.log"):
        slow.start()
    with pytest.raises(redis.ConnectionError):
        client(slow).ping()


@pytest.mark.parametrize("appendfsync", ["everysec", "always"])
def test_the_log_is_on_disk_when_it_was_asked_to_be(tmp_path: Path, socket: Path, appendfsync: str) -> None:
    """What the server runs with is what the operator chose."""
    server = EmbeddedValkey(tmp_path / "valkey", socket, appendfsync)
    server.start()
    with client(server) as connected:
        assert connected.config_get("append*") | {"appendfsync": appendfsync, "appendonly": "yes"} == (
            connected.config_get("append*")
        )
    server.stop()


def test_nobody_else_can_connect(tmp_path: Path, socket: Path) -> None:
    """No TCP port, and a socket for its owner only."""
    server = EmbeddedValkey(tmp_path / "valkey", socket)
    server.start()
    with client(server) as connected:
        assert connected.config_get("port") == {"port": "0"}
        assert connected.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert socket.stat().st_mode & 0o077 == 0
    server.stop()
