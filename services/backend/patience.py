"""How long an attempt waits for somebody to take it, and what it says when nobody does.

Only time in which this process was awake counts: each ``tick`` counts as one, however long it took.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.errors import ChannelError, ClusterError, NoReplicaError

TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that an attempt may wait.

    Attributes:
        choice_s: for a replica to be there at all.
        life_s: for a sign of life of the chosen one; a busy engine shows life by its replica's beat.
        accept_s: for the acceptance, whatever else happens.
    """

    choice_s: float = 10.0
    life_s: float = 2.8
    accept_s: float = 60.0


class Patience:
    """The wait of one attempt.

    Args:
        waits: limits.
        order: replicas as the router ordered them, best first; empty while it has found none. Filled in meanwhile.
        silent_s: seconds since a replica was heard, None for one that never spoke to this process.
        suspect: told of a chosen replica that shows no life.
    """

    def __init__(
        self,
        waits: Waits,
        order: Callable[[], Sequence[str]],
        silent_s: Callable[[str], float | None],
        suspect: Callable[[str], None],
    ) -> None:
        self._waits = waits
        self._order = order
        self._silent_s = silent_s
        self._suspect = suspect
        self._waited_s = 0.0
        self._chosen_s = 0.0

    def tick(self) -> ClusterError | None:
        """``TICK_S`` have passed. What to end the attempt with, if it has waited long enough."""
        self._waited_s += TICK_S
        order = self._order()
        if order:
            self._chosen_s += TICK_S
            return self._wait_for(order[0])
        if self._waited_s >= self._waits.choice_s:
            return NoReplicaError("No model replica is running.", retry_after_s=5)
        return None

    def _wait_for(self, chosen: str) -> ClusterError | None:
        if self._chosen_s >= self._waits.accept_s:
            return NoReplicaError("No model replica took the turn in time.", retry_after_s=5)
        silent_s = self._silent_s(chosen)
        is_alive = silent_s is not None and silent_s < self._waits.life_s
        if is_alive or self._chosen_s < self._waits.life_s:
            return None
        self._suspect(chosen)
        return ChannelError(f"replica {chosen} shows no sign of life")
