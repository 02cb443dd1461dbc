"""The embedded store: data that survives, a server that never outlives its cluster twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from services.embedded import EmbeddedValkey

pytestmark = pytest.mark.valkey


def client(server: EmbeddedValkey) -> redis.Redis:
    """A client of the server."""
    return redis.Redis.from_url(server.url)


def test_data_survives_a_restart(tmp_path: Path) -> None:
    """What was written before stop is there after start."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    with client(server) as first:
        first.set("name", "Anna")
    server.stop()
    server.start()
    with client(server) as second:
        assert second.get("name") == b"Anna"
    server.stop()


def test_a_server_left_over_is_ended_and_its_data_kept(tmp_path: Path) -> None:
    """A launcher killed with kill -9 may leave its server behind; the next one takes the data over from it."""
    lost, found = EmbeddedValkey(tmp_path / "valkey"), EmbeddedValkey(tmp_path / "valkey")
    lost.start()
    with client(lost) as first:
        first.set("name", "Anna")
    found.start()
    with client(found) as second:
        assert second.get("name") == b"Anna"
    found.stop()
    lost.stop()


def test_a_folder_whose_path_is_too_long_for_a_socket_works(tmp_path: Path) -> None:
    """The socket then lies in a short folder that only this user may enter."""
    server = EmbeddedValkey(tmp_path / ("long" * 30) / "valkey")
    server.start()
    assert str(tmp_path) not in server.url
    with client(server) as connected:
        assert connected.ping()
    server.stop()


def test_nobody_else_can_connect(tmp_path: Path) -> None:
    """No TCP port, and a socket for its owner only."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    with client(server) as connected:
        assert connected.config_get("port") == {"port": "0"}
        assert connected.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert (tmp_path / "valkey" / "valkey.sock").stat().st_mode & 0o077 == 0
    server.stop()
