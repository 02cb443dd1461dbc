"""A conversation store in memory that keeps what it was asked, in order."""

from __future__ import annotations

import inspect
from typing import Any

from tests.fakes.unsteady_store import UnsteadyStore


class CountedStore(UnsteadyStore):
    """``calls``: the names of the methods that were called; each is a round trip to a real store."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        """Methods as they are looked up to be called."""
        found = super().__getattribute__(name)
        if not name.startswith("_") and inspect.iscoroutinefunction(found):
            self.calls.append(name)
        return found
