"""Who waits longer than whom; a wrong order cuts answers."""

from __future__ import annotations

from services.ray_environment import DEFAULTS, END_S, LONGEST_TURN_S
from services.settings import ClusterSettings


def test_what_is_outside_waits_longer_than_what_is_inside() -> None:
    """HAProxy outlives a gateway that drains, which outlives the longest turn, which outlives the drain's grace."""
    grace = ClusterSettings.model_fields["drain_grace_s"].default
    hard_stop = int(DEFAULTS["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"])
    assert grace < LONGEST_TURN_S < LONGEST_TURN_S + END_S < hard_stop
