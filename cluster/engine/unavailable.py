"""What callers hear of an engine that cannot take their request, or cannot go on with it, wherever it runs."""

from __future__ import annotations

from typing import Final

from cluster.errors import NoReplicaError, OverloadedError

ENGINE_CRASHED: Final = "engine_crashed"  # in the last event of attempts that the engine's end has moved

_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 60.0


def not_running() -> NoReplicaError:
    """The engine has stopped, or has died."""
    return NoReplicaError("The engine is not running.", retry_after_s=_MIN_RETRY_S)


def require_room(pending: int, max_waiting: int, stalled_for_s: float) -> None:
    """Raise OverloadedError when ``pending`` submits wait for the end of a long step already."""
    if pending >= max_waiting:
        retry_after_s = min(max(stalled_for_s, _MIN_RETRY_S), _MAX_RETRY_S)
        raise OverloadedError("The engine's inbox is full.", retry_after_s=retry_after_s)
