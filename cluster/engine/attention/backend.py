"""The seam between the runner and whatever attends over paged keys and values on a device."""

from __future__ import annotations

from typing import Protocol

from cluster.engine.plan import StepPlan
from cluster.model.attention import Attention


class AttentionBackend(Attention, Protocol):
    """Paged attention for one engine step at a time: ``begin`` once, then ``forward`` once per layer, in any order."""

    def begin(self, plan: StepPlan) -> None:
        """Prepare what all layers of the step share (indices, masks). No tensor of the model is touched."""
        ...
