"""The IdIndex of one process: the most recently used answers, for as long as Redis would keep them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from services.conversations.keys import IDS_TTL_S
from services.conversations.store import Sampled

MAX_ENTRIES: Final = 4096


class MemoryIdIndex:
    """See ``IdIndex``.

    Args:
        max_entries: answers held; the least recently used goes first.
        clock: unix seconds; tests hand in their own.
    """

    def __init__(self, *, max_entries: int = MAX_ENTRIES, clock: Callable[[], float] = time.time) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, Sampled]] = OrderedDict()

    async def get(self, keys: Sequence[bytes]) -> list[Sampled | None]:
        """One entry per key, None where nothing is known."""
        return [self._get(key) for key in keys]

    async def put(self, key: bytes, answer: Sampled) -> None:
        """Remember."""
        self._entries[key] = (self._clock() + IDS_TTL_S, answer)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    async def flush(self) -> None:
        """Everything put is there already."""

    async def close(self) -> None:
        """Nothing to release."""

    def _get(self, key: bytes) -> Sampled | None:
        entry = self._entries.get(key)
        if entry is None or entry[0] <= self._clock():
            self._entries.pop(key, None)
            return None
        self._entries.move_to_end(key)
        return entry[1]
