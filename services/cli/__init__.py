"""The command line ``chatglm-cluster``: one module per command."""

from __future__ import annotations

from services.cli.main import main

__all__ = ["main"]
