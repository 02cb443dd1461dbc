"""What a dispatcher knows of itself and of its queue, for whoever counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from services.dispatcher.scaling import Load
from services.queue.base import QueueLag


@dataclass(frozen=True, slots=True)
class DispatcherFacts:
    """One moment.

    Attributes:
        used: turns being carried out.
        slots: turns that it may carry out at once.
        allowed: those that replicas have let it have lately, at most ``slots``.
        adopted: orphaned turns that it has taken over since its start.
        settled: jobs since its start, by what became of them: ``done``, ``retry`` or ``dead``.
        lag: of the whole queue, about a second old; None before its first answer.
    """

    used: int
    slots: int
    allowed: int
    adopted: int
    settled: Mapping[str, int]
    lag: QueueLag | None


def figures(facts: DispatcherFacts) -> dict[str, float]:
    """The fields of ``Load``; none before the queue has answered, so that nothing is scaled by a guess."""
    if facts.lag is None:
        return {}
    return asdict(Load(jobs=facts.lag.waiting + facts.lag.working, slots=facts.slots, allowed=facts.allowed))
