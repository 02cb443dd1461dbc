"""Ids that one sequence must not draw next: what would complete a bad word, and stop ids before their time.

A bad word of several ids is only its last id's business, and only while prompt and output together end with the ids
before it, as in transformers' ``NoBadWordsLogitsProcessor``; as there, a single stop id is no bad word.
"""

from __future__ import annotations

from array import array

from cluster.protocol import SamplingParams


class Bans:
    """The bans of one sequence. Holds no state: they are a function of the ids."""

    def __init__(self, sampling: SamplingParams, num_prompt: int) -> None:
        words = [word for word in sampling.bad_words if len(word) > 1 or word[0] not in sampling.stop_ids]
        self._always = [word[0] for word in words if len(word) == 1]
        self._after: dict[int, list[tuple[array[int], int]]] = {}  # by the id before the last
        for word in words:
            if len(word) > 1:
                self._after.setdefault(word[-2], []).append((array("i", word[:-1]), word[-1]))
        self._stop_ids = list(sampling.stop_ids)
        self._first_end = num_prompt + sampling.min_new_tokens

    @classmethod
    def of(cls, sampling: SamplingParams, num_prompt: int) -> Bans | None:
        """None when the request bans nothing."""
        return cls(sampling, num_prompt) if sampling.bad_words or sampling.min_new_tokens else None

    def words(self, token_ids: array[int]) -> list[int]:
        """Ids that would complete a bad word after ``token_ids``, prompt and output so far."""
        candidates = self._after.get(token_ids[-1], ())
        return self._always + [last for prefix, last in candidates if token_ids[-len(prefix) :] == prefix]

    def stops(self, token_ids: array[int]) -> list[int]:
        """The stop ids while ``token_ids`` holds too few outputs to end."""
        return self._stop_ids if len(token_ids) < self._first_end else []
