"""A guide that holds an answer to a list: each place of the answer has its set of ids, and then a stop id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ScriptedGuide:
    """A ``Guide`` over ``places``; after the last of them only ``stop_ids`` may come.

    Attributes:
        accepted: the ids taken so far.
    """

    def __init__(self, places: list[set[int]], *, stop_ids: tuple[int, ...] = ()) -> None:
        self.places = places
        self.stop_ids = set(stop_ids)
        self.accepted: list[int] = []

    @property
    def is_ended(self) -> bool:
        return len(self.accepted) == len(self.places)

    @property
    def _next(self) -> set[int]:
        return self.stop_ids if self.is_ended else self.places[len(self.accepted)]

    def fill(self, words: NDArray[np.int32]) -> None:
        bits = np.zeros(len(words) * 32, np.uint8)
        bits[list(self._next)] = 1
        words[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token_id: int) -> bool:
        fits = not self.is_ended and token_id in self._next
        if fits:
            self.accepted.append(token_id)
        return fits
