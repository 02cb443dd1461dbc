"""Draws one id per row: temperature, top-k, top-p, softmax, in that order.

With top-k on, all but the best few columns are left alone: the filters and the softmax see those only, which for a
vocabulary of 65,024 costs a hundredth. The draw itself is torch's, over the whole width, so that a seed gives the same
ids as transformers' own samplers do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cluster.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw.

    Attributes:
        temperature: scores are divided by it; above 0.
        top_k: best ids kept, with all that tie with the last; 0 is off.
        top_p: the fewest best ids with this probability together are kept; 1 is off.
        warpers: further functions of (ids, scores), behind these.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    warpers: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InvalidRequestError(
                f"temperature is {self.temperature}; it must be above 0 (do_sample=False takes the best id).",
                param="temperature",
            )
        if self.top_k < 0:
            raise InvalidRequestError(f"top_k is {self.top_k}; it must be 0 (off) or more.", param="top_k")
        if not self.top_p >= 0:
            raise InvalidRequestError(f"top_p is {self.top_p}; it must be from 0 to 1.", param="top_p")


def sample(ids: Tensor, scores: Tensor, how: Sampling) -> Tensor:
    """Scores float32 [B, V] -> ids int64 [B]; ``ids`` [B, n] is what warpers may look at."""
    return torch.multinomial(probabilities(ids, scores, how), num_samples=1).squeeze(1)


def probabilities(ids: Tensor, scores: Tensor, how: Sampling) -> Tensor:
    """What each id's chance is: scores float32 [B, V] -> [B, V]."""
    kept, columns = _best(scores / how.temperature, how.top_k)
    if how.top_p < 1.0:
        kept = _nucleus(kept, how.top_p)
    if how.warpers:
        kept = torch.full_like(scores, float("-inf")).scatter_(1, columns, kept)
        for warper in how.warpers:
            kept = warper(ids, kept)
        return kept.softmax(-1)
    return torch.zeros_like(scores).scatter_(1, columns, kept.softmax(-1))


def _best(scores: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Scores in falling order and their columns, [B, K]; ties with the k-th are kept, what is beyond is -inf."""
    width = scores.shape[-1]
    if not 0 < top_k < width:
        values, columns = scores.sort(dim=-1, descending=True)
        return values, columns
    least = scores.topk(top_k, dim=-1).values[:, -1:]
    ties = int((scores >= least).sum(dim=-1).max())
    values, columns = scores.topk(max(ties, top_k), dim=-1)
    return values.masked_fill(values < least, float("-inf")), columns


def _nucleus(falling: Tensor, top_p: float) -> Tensor:
    """Drop the tail whose probability, inclusive and summed from the worst, is at most 1 - p; the best stays."""
    rising = falling.softmax(-1).flip(-1).cumsum(-1).flip(-1)
    dropped = rising <= 1 - top_p
    dropped[:, 0] = False
    return falling.masked_fill(dropped, float("-inf"))
