"""The numbers of replicas and dispatchers in the Serve config: fixed, or between two bounds.

Serve counts a policy itself as code: the first cluster with it, or the last without, is a rolling update. Every number
beside it may change in a running cluster and leaves the processes that there are alone.
"""

from __future__ import annotations

from typing import Any

from services.settings import ClusterSettings

REPLICA_POLICY = "cluster.scaling.serve_policy:ReplicaScaling"
DISPATCHER_POLICY = "services.dispatcher.serve_policy:DispatcherScaling"
REPORT_INTERVAL_S = 2.0  # Serve's default of 10 s is all the delay that a rush can bear
LOOK_BACK_S = 10.0
DISPATCHER_UP_S = 2.0  # one starts in seconds and costs little
DISPATCHER_DOWN_S = 120.0  # but its turns are handed over when it goes


def replica_numbers(settings: ClusterSettings) -> dict[str, Any]:
    """The part of the replicas' section that says how many there are."""
    delays = (settings.scale_up_delay_s, settings.scale_down_delay_s)
    return _numbers(settings.replicas, settings.most_replicas, REPLICA_POLICY, delays)


def dispatcher_numbers(settings: ClusterSettings) -> dict[str, Any]:
    """The same of the dispatchers' section."""
    delays = (DISPATCHER_UP_S, DISPATCHER_DOWN_S)
    return _numbers(settings.dispatchers, settings.most_dispatchers, DISPATCHER_POLICY, delays)


def _numbers(least: int, most: int, policy: str, delays_s: tuple[float, float]) -> dict[str, Any]:
    if most == least:
        return {"num_replicas": least}
    up_s, down_s = delays_s
    return {
        "autoscaling_config": {
            # No initial_replicas: with any change Serve would set the number back to it.
            "min_replicas": least,
            "max_replicas": most,
            "upscale_delay_s": up_s,
            "downscale_delay_s": down_s,
            "metrics_interval_s": REPORT_INTERVAL_S,
            "look_back_period_s": LOOK_BACK_S,
            "policy": {"policy_function": policy},
        }
    }
