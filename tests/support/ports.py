"""Ports for the programs that tests start."""

from __future__ import annotations

from services.ports import unused_port


def free_port() -> int:
    """A port nobody listens on now, nor before the program does."""
    return unused_port()
