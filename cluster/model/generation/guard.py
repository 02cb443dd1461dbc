"""What to do about scores that are no numbers.

The published guard looks at the scores after every other processor, takes their -inf for a failure, and then overwrites
the whole batch: options that forbid ids force id 5 instead. Ours looks for what only a failure makes, row by row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from cluster.errors import GenerationFailedError

FORCED_ID = 5  # the byte 0x02: a failed row reads as a run of them
_FORCED_SCORE = 5e4


def failed_rows(scores: Tensor) -> Tensor:
    """Bool [B]: rows with a NaN or +inf, or with nothing finite. -inf alone is an id that was forbidden."""
    best = scores.max(dim=-1).values  # NaN wins
    return ~torch.isfinite(best)


class RowGuard(LogitsProcessor):  # type: ignore[misc]  # untyped library
    """Forces id 5 in failed rows and leaves the others alone."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  # transformers' signature
        """Scores [B, V] -> [B, V]."""
        failed = failed_rows(scores)
        return _force(scores, failed) if bool(failed.any()) else scores


class InvalidScoreGuard(LogitsProcessor):  # type: ignore[misc]  # untyped library
    """The published guard: one score that is not finite, and id 5 is forced in every row."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  # transformers' signature
        """Scores [B, V] -> [B, V]."""
        if bool(torch.isfinite(scores).all()):
            return scores
        return _force(scores, torch.ones(len(scores), dtype=torch.bool, device=scores.device))


class RaisingGuard(LogitsProcessor):  # type: ignore[misc]  # untyped library
    """Ends a chat whose only row has failed."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  # transformers' signature
        """Scores [B, V], unchanged.

        Raises:
            GenerationFailedError: a row has failed.
        """
        if bool(failed_rows(scores).any()):
            raise GenerationFailedError(
                "The model's logits are not finite: its weights hold NaN, or float16 overflowed. Check the checkpoint, "
                "or load it with dtype='bfloat16' or 'float32'."
            )
        return scores


def _force(scores: Tensor, rows: Tensor) -> Tensor:
    forced = scores.new_zeros(scores.shape[-1])
    forced[FORCED_ID] = _FORCED_SCORE
    return torch.where(rows[:, None], forced, scores)
