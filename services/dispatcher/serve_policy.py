"""The scaling policy of dispatchers as Ray Serve asks for it, in its controller.

It takes no arguments: Serve counts a policy's arguments as code and would replace every dispatcher for a new one.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from services.dispatcher.scaling import Load, wanted

if TYPE_CHECKING:  # what comes in is Serve's; nothing of it is made here
    from ray.serve.config import AutoscalingContext


class DispatcherScaling:
    """From what dispatchers record (``Load`` by field name) to their number; Serve adds bounds and delays."""

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of dispatchers wanted, and no state for Serve to keep."""
        number = wanted(
            loads(context.raw_metrics or {}),
            current=context.target_num_replicas,
            least=context.capacity_adjusted_min_replicas,
            most=context.capacity_adjusted_max_replicas,
        )
        return number, {}


def loads(metrics: dict[str, dict[Any, Any]]) -> list[Load]:
    """The last load of each dispatcher that has reported every figure; a queue's length means what it is now.

    ``metrics`` are series of timestamped values, by figure and dispatcher.
    """
    names = [field.name for field in fields(Load)]
    if any(name not in metrics for name in names):
        return []
    whole = [each for each in metrics[names[0]] if all(metrics[name].get(each) for name in names)]
    return [Load(**{name: float(metrics[name][each][-1].value) for name in names}) for each in whole]
