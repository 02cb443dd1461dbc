"""The scaling policy as Ray Serve asks for it: in its controller, ten times a second.

Serve copies this module by value and imports what it names, so neither may import anything heavy. It takes no
arguments: Serve counts a policy's arguments as code and would replace every replica for a new one. Numbers that may
change live in the ``AutoscalingConfig`` beside it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cluster.scaling.policy import Load, Scaler

if TYPE_CHECKING:  # what comes in is Serve's; nothing of it is made here
    from ray.serve.config import AutoscalingContext


class ReplicaScaling:
    """From the figures that replicas record (``Load`` by field name) to their number; Serve adds bounds and delays."""

    def __init__(self) -> None:
        self._scaler = Scaler()

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas wanted, and no state for Serve to keep."""
        number = self._scaler.wanted(
            loads(context.raw_metrics or {}),
            current=context.target_num_replicas,
            least=context.capacity_adjusted_min_replicas,
            most=context.capacity_adjusted_max_replicas,
        )
        return number, {}


def loads(metrics: dict[str, dict[Any, Any]]) -> list[Load]:
    """The mean load of each replica that has reported every figure, over the period that Serve looks back.

    ``metrics`` are series of timestamped values, by figure and replica.
    """
    names = [field.name for field in fields(Load)]
    if any(name not in metrics for name in names):
        return []
    replicas = [replica for replica in metrics[names[0]] if all(metrics[name].get(replica) for name in names)]
    return [Load(**{name: _mean(metrics[name][replica]) for name in names}) for replica in replicas]


def _mean(series: list[Any]) -> float:
    return float(sum([point.value for point in series]) / len(series))
