"""The embedded store: data that survives, and a server that nobody else reaches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from services.embedded import EmbeddedValkey

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
