"""What a replica says of its load to the scaling policy."""

from __future__ import annotations

from dataclasses import asdict

from cluster.engine.client import EngineStats
from cluster.scaling.policy import Load


def figures(stats: EngineStats, *, capacity: int) -> dict[str, float]:
    """The fields of ``Load`` for an engine whose batch holds ``capacity`` turns."""
    load = Load(
        running=stats.running,
        waiting=stats.waiting,
        waiting_tokens=max(stats.waiting_tokens - stats.running, 0) * stats.computed_share,  # less a decode each
        capacity=capacity,
        prefill_rate=stats.prefill_rate,
    )
    return asdict(load)
