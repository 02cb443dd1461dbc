"""Transformers' beam search, ended and written as the library did that the published code ran on (4.40).

Two rules differ. A search goes on while the best *candidate* of a step could beat the worst finished beam; later ones
look at the beams that run on only, and may end a step early. And whichever stop id ended a beam, the first one is
written.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Final

import torch
from torch import Tensor
from transformers import GenerationMixin

_STOPS: Final = "_eos_token_tensor"  # transformers' name for the stop ids of a running generation


class PublishedBeams(GenerationMixin):  # type: ignore[misc]  # untyped library
    """Steps of transformers' search with the rules of the published one; all of it is called by ``generate``."""

    _best: Tensor  # [B, 1], sum of the best candidate's log probabilities in this step, stop ids included
    _stop_ids: Tensor

    def _beam_search(self, input_ids: Tensor, *, generation_config: Any, **kwargs: Any) -> Any:
        search = copy(self)  # what one search remembers is its own: threads may share the model
        return search._search(input_ids, generation_config, kwargs)  # noqa: SLF001  # its own

    def _search(self, input_ids: Tensor, config: Any, more: dict[str, Any]) -> Any:
        stops = getattr(config, _STOPS)
        if stops is None or not stops.numel():
            setattr(config, _STOPS, None)  # an empty list is not understood
            stops = input_ids.new_empty(0)
        self._stop_ids = stops
        made = super()._beam_search(input_ids, generation_config=config, **more)
        sequences = made if isinstance(made, Tensor) else made.sequences
        _name_stops(sequences[:, input_ids.shape[1] :], stops, config.pad_token_id or 0)
        return made

    def _update_finished_beams(self, *, next_token_hits_stopping_criteria: Tensor, **kwargs: Any) -> Any:
        """Take stop ids first; where they fill a row that ends early, what a limit cut no longer enters it."""
        update, hits = super()._update_finished_beams, next_token_hits_stopping_criteria
        self._best = kwargs["topk_log_probs"][:, :1]
        everything = update(next_token_hits_stopping_criteria=hits, **kwargs)
        if kwargs["early_stopping"] is not True:
            return everything
        drawn = kwargs["topk_running_sequences"][:, :, kwargs["cur_len"]]
        stopped = update(next_token_hits_stopping_criteria=hits & torch.isin(drawn, self._stop_ids), **kwargs)
        is_full = stopped[3].all(dim=-1)
        return tuple(
            torch.where(is_full.view(-1, *[1] * (one.dim() - 1)), one, other)
            for one, other in zip(stopped, everything, strict=True)
        )

    def _check_early_stop_heuristic(self, *, running_beam_scores: Tensor, **kwargs: Any) -> Any:  # noqa: ARG002  # see _best
        return super()._check_early_stop_heuristic(running_beam_scores=self._best, **kwargs)


def _name_stops(answers: Tensor, stop_ids: Tensor, pad_id: int) -> None:
    """Write the first stop id wherever a beam ended, whichever ended it, and pads behind it, in place.

    Without stop ids, -1 stands behind a beam that ended.
    """
    is_stop = torch.isin(answers, stop_ids)
    earlier = is_stop.int().cumsum(-1) - is_stop.int()  # stop ids in front of each place
    answers[is_stop & (earlier == 0)] = stop_ids[:1]
    answers[(earlier > 0) | (answers < 0)] = pad_id
