"""A process that dies at a call to its stores: from then on nothing of it ever happens.

A call that is never answered is all that a dead process is to the others: its tasks hang, its leases run out.
"""

from __future__ import annotations

import asyncio
from typing import Any

_CALLS = frozenset(
    [
        "load",
        "begin",
        "claim",
        "release",
        "note",
        "commit",
        "cancel",
        "turn",
        "tail",
        "publish",
        "check_room",
        "take_many",
        "settle",
        "extend",
        "reclaim",
        "promote_due",
        "replay",
        "add",
        "move",
        "remove",
        "look",
    ]
)


class Mortal:
    """One process' fate, shared by all its stores.

    Args:
        call: the method at which it dies.
        is_done: whether that call still has its effect.
        skip: how many such calls it survives.
    """

    def __init__(self, call: str, *, is_done: bool, skip: int = 0) -> None:
        self.is_dead = asyncio.Event()
        self._call = call
        self._is_done = is_done
        self._left = skip

    def __call__(self, store: Any) -> Any:
        """The store as this process sees it."""
        return _Seen(self, store)

    async def meet(self, name: str, call: Any) -> Any:
        """Make one call, if the process still lives."""
        if not self.is_dead.is_set() and not self._is_last(name):
            return await call()
        if not self.is_dead.is_set():
            self.is_dead.set()
            if self._is_done:
                await call()
        return await asyncio.Event().wait()

    def _is_last(self, name: str) -> bool:
        if name != self._call:
            return False
        self._left -= 1
        return self._left < 0


class _Seen:
    """A store whose calls go through a process' fate."""

    def __init__(self, mortal: Mortal, store: Any) -> None:
        self._mortal = mortal
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in _CALLS:
            return method

        async def met(*args: Any, **options: Any) -> Any:
            return await self._mortal.meet(name, lambda: method(*args, **options))

        return met
