"""What a dispatcher reports: its turns and how full it is."""

from __future__ import annotations

from cluster.metrics.families import Family, gauge
from services.turn_process.families import turn_families
from services.turns.metrics import TurnMetrics


def dispatcher_families(turns: TurnMetrics, used_slots: int) -> list[Family]:
    """All families of one dispatcher process."""
    used = gauge("chatglm_dispatcher_slots_used", "Turns that dispatchers carry out now.", used_slots)
    return [*turn_families(turns), used]
