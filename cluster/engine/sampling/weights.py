"""Ids whose scores change by penalties and bias, and by how much; kept up with one sequence as its answer grows.

All of it is a function of the ids alone: a sequence that was preempted, or that goes on from another replica, gets
the very numbers it would have had. The repetition penalty looks at prompt and output, the other two at the output only.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.protocol import SamplingParams

# Beyond these a float32 score leaves float32's range; any effect is complete long before.
_LEAST_FACTOR, _LARGEST_FACTOR = 1e-30, 1e30


class Weighed(NamedTuple):
    """N ids, none twice: a score s becomes (s / factor if s > 0 else s * factor) + offset.

    Attributes:
        ids: int32 [N].
        factors: float32 [N]; the repetition penalty, 1 for an id that only has a bias.
        offsets: float32 [N]; bias less presence and frequency penalty.
    """

    ids: NDArray[np.int32]
    factors: NDArray[np.float32]
    offsets: NDArray[np.float32]


class Weights:
    """The weighed ids of one sequence."""

    def __init__(self, sampling: SamplingParams, num_prompt: int) -> None:
        self._sampling = sampling
        self._factor = min(max(sampling.repetition_penalty, _LEAST_FACTOR), _LARGEST_FACTOR)
        self._num_prompt = num_prompt
        self._penalises = _penalises(sampling)
        self._num_seen = 0 if sampling.repetition_penalty != 1 else num_prompt
        self._counts: dict[int, int] = {}  # times the output holds an id
        self._place: dict[int, int] = {}
        self._ids, self._factors, self._offsets = array("i"), array("f"), array("f")
        for token_id, bias in sampling.logit_bias.items():
            self._add(token_id, factor=1.0, offset=bias)

    @classmethod
    def of(cls, sampling: SamplingParams, num_prompt: int) -> Weights | None:
        """None when the request asks for no penalty and no bias."""
        return cls(sampling, num_prompt) if _penalises(sampling) or sampling.logit_bias else None

    def at(self, token_ids: array[int]) -> Weighed:
        """What to do to the scores after ``token_ids``, prompt and output so far; they only grow from call to call."""
        if self._penalises:
            self._catch_up(token_ids)
        # Copies: a view of an array that is about to grow would pin it.
        return Weighed(
            np.array(self._ids, np.int32), np.array(self._factors, np.float32), np.array(self._offsets, np.float32)
        )

    def _catch_up(self, token_ids: array[int]) -> None:
        if self._num_seen < self._num_prompt:
            for token_id in dict.fromkeys(token_ids[: self._num_prompt]):
                self._repeat(token_id)
            self._num_seen = self._num_prompt
        for token_id in token_ids[self._num_seen :]:
            self._take_output(token_id)
        self._num_seen = len(token_ids)

    def _take_output(self, token_id: int) -> None:
        sampling = self._sampling
        count = self._counts[token_id] = self._counts.get(token_id, 0) + 1
        place = self._repeat(token_id)
        bias = sampling.logit_bias.get(token_id, 0.0)
        self._offsets[place] = bias - sampling.presence_penalty - sampling.frequency_penalty * count

    def _repeat(self, token_id: int) -> int:
        """Note that prompt or output holds an id; returns its place."""
        place = self._place.get(token_id)
        if place is None:
            return self._add(token_id, factor=self._factor, offset=0.0)
        self._factors[place] = self._factor
        return place

    def _add(self, token_id: int, *, factor: float, offset: float) -> int:
        place = self._place[token_id] = len(self._ids)
        self._ids.append(token_id)
        self._factors.append(factor)
        self._offsets.append(offset)
        return place


def _penalises(sampling: SamplingParams) -> bool:
    return any((sampling.repetition_penalty != 1, sampling.presence_penalty, sampling.frequency_penalty))
