"""What the engine asks of a structure that an answer must have: which ids may come next.

A guide is at its start when it is handed in: the engine feeds it the ids that an earlier attempt emitted, then each id
drawn, so that a guide never sees a prompt. Stop ids are the guide's own business: its mask allows them where the answer
may end. A sequence that loses its pages keeps its guide, whose state depends on ids alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.errors import InvalidRequestError


class Guide(Protocol):
    """The state of one answer in its structure. Used by the engine's thread alone; raises nothing."""

    @property
    def is_ended(self) -> bool:
        """Whether what was accepted is complete, so that the answer may end here (it may be able to go on, too)."""
        ...

    def fill(self, words: NDArray[np.int32]) -> None:
        """Write the mask of the next id, stop ids included, over whatever ``words`` holds.

        Args:
            words: int32 [ceil(vocab_size / 32)]; bit ``i % 32`` of word ``i // 32`` set means that id ``i`` may come
                next. No bit set: nothing may, and the sequence fails unless ``is_ended``.
        """
        ...

    def accept(self, token_id: int) -> bool:
        """Take the next id, never a stop id. False if it does not fit; the state is then as before."""
        ...


def replay(guide: Guide, output_ids: Iterable[int]) -> None:
    """Lead a guide to where an earlier attempt stopped. Raises InvalidRequestError if it could not have been there."""
    if not all(guide.accept(token_id) for token_id in output_ids):
        raise InvalidRequestError("The ids emitted so far do not fit the structure.", param="output_ids")
