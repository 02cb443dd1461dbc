"""Ports that stay free until their program listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services import ports


def test_a_port_is_none_that_an_outgoing_connection_may_get() -> None:
    """The system hands those out while the program still starts."""
    first = int(ports._OUTGOING.read_text().split()[0])
    found = {ports.unused_port() for _ in range(50)}
    assert len(found) > 40
    assert all(20_000 <= port < min(first, 30_000) for port in found)


def test_a_port_that_somebody_listens_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports.unused_port()))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "_FIRST", port)
        monkeypatch.setattr(ports, "_END", port + 1)
        assert ports.unused_port() != port


def test_a_machine_that_gives_all_ports_to_connections_is_served_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then any free one does."""
    setting = tmp_path / "range"
    setting.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_OUTGOING", setting)
    assert ports.unused_port() >= 1024
