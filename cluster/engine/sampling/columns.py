"""Gathers what the drawing rows of a step ask of sampling into flat columns.

Rows that ask for no more than temperature, top-p and top-k cost five list entries; everything else is looked at only
when some row of the step has it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cluster.engine.plan import Adjustments, SamplingColumns
from cluster.engine.sequence import Sequence

_NO_IDS = np.empty(0, np.int32)
_NO_NUMBERS = np.empty(0, np.float32)


def columns(rows: list[int], drawing: list[Sequence], vocab_size: int) -> SamplingColumns:
    """The columns of ``drawing``, sequences that stand in ``rows`` of the plan."""
    asks_more = any(seq.asks_more for seq in drawing)
    return SamplingColumns(
        rows=np.array(rows, dtype=np.int32),
        temperature=np.array([seq.sampling.temperature for seq in drawing], dtype=np.float32),
        top_p=np.array([seq.sampling.top_p for seq in drawing], dtype=np.float32),
        top_k=np.array([seq.sampling.top_k for seq in drawing], dtype=np.int32),
        uniform=np.array([seq.draw() for seq in drawing], dtype=np.float64),
        min_p=_min_p(drawing) if asks_more else None,
        logprobs=_logprobs(drawing) if asks_more else None,
        adjustments=_adjustments(drawing, vocab_size) if asks_more else None,
    )


def _min_p(drawing: list[Sequence]) -> NDArray[np.float32] | None:
    values = np.array([seq.sampling.min_p for seq in drawing], dtype=np.float32)
    return values if values.any() else None


def _logprobs(drawing: list[Sequence]) -> NDArray[np.int32] | None:
    asked = [seq.sampling.logprobs for seq in drawing]
    values = np.array([-1 if number is None else number for number in asked], dtype=np.int32)
    return values if (values >= 0).any() else None


def _adjustments(drawing: list[Sequence], vocab_size: int) -> Adjustments | None:
    asks = [what for seq in drawing for what in (seq.weights, seq.bans, seq.guide)]
    if all(what is None for what in asks):
        return None
    weighed = [(row, seq.weights.at(seq.token_ids)) for row, seq in enumerate(drawing) if seq.weights is not None]
    forbidden = [(row, _forbidden(seq)) for row, seq in enumerate(drawing)]
    guided = [row for row, seq in enumerate(drawing) if seq.guide is not None]
    return Adjustments(
        weighed_rows=_repeated([(row, len(part.ids)) for row, part in weighed]),
        weighed_ids=np.concatenate([_NO_IDS, *(part.ids for _, part in weighed)]),
        factors=np.concatenate([_NO_NUMBERS, *(part.factors for _, part in weighed)]),
        offsets=np.concatenate([_NO_NUMBERS, *(part.offsets for _, part in weighed)]),
        forbidden_rows=_repeated([(row, len(ids)) for row, ids in forbidden]),
        forbidden_ids=np.array([token_id for _, ids in forbidden for token_id in ids], dtype=np.int32),
        guided_rows=np.array(guided, dtype=np.int32),
        allowed=_masks([drawing[row] for row in guided], vocab_size),
    )


def _forbidden(seq: Sequence) -> list[int]:
    if seq.bans is None:
        return []
    words = seq.bans.words(seq.token_ids)
    return words if seq.guide is not None else words + seq.bans.stops(seq.token_ids)


def _masks(guided: list[Sequence], vocab_size: int) -> NDArray[np.int32]:
    masks = np.zeros((len(guided), -(-vocab_size // 32)), dtype=np.int32)
    for words, seq in zip(masks, guided, strict=True):
        assert seq.guide is not None
        seq.guide.fill(words)
        if seq.bans is not None:
            _without(words, seq.bans.stops(seq.token_ids))
    return masks


def _without(words: NDArray[np.int32], stop_ids: list[int]) -> None:
    """Take the stop ids out of a mask that allows anything else: where a structure has to end, the answer may."""
    remaining = words.copy().view(np.uint32)
    for token_id in stop_ids:
        remaining[token_id // 32] &= ~np.uint32(1 << token_id % 32)
    if remaining.any():
        words[:] = remaining.view(np.int32)


def _repeated(counts: list[tuple[int, int]]) -> NDArray[np.int32]:
    """Each row as often as it has entries."""
    return np.repeat(np.array([row for row, _ in counts], np.int32), [count for _, count in counts])
