"""The replicas' number in the Serve config: fixed, or between two bounds.

Serve counts the policy itself as code: the first cluster with it, or the last without, is a rolling update. Every
number beside it may change in a running cluster and leaves the replicas that there are alone.
"""

from __future__ import annotations

from typing import Any

from services.settings import ClusterSettings

POLICY = "cluster.scaling.serve_policy:ReplicaScaling"
REPORT_INTERVAL_S = 2.0  # Serve's default of 10 s is all the delay that a rush can bear
LOOK_BACK_S = 10.0


def replica_numbers(settings: ClusterSettings) -> dict[str, Any]:
    """The part of the replicas' section that says how many there are."""
    if settings.most_replicas == settings.replicas:
        return {"num_replicas": settings.replicas}
    return {
        "autoscaling_config": {
            # No initial_replicas: with any change Serve would set the number back to it.
            "min_replicas": settings.replicas,
            "max_replicas": settings.most_replicas,
            "upscale_delay_s": settings.scale_up_delay_s,
            "downscale_delay_s": settings.scale_down_delay_s,
            "metrics_interval_s": REPORT_INTERVAL_S,
            "look_back_period_s": LOOK_BACK_S,
            "policy": {"policy_function": POLICY},
        }
    }
