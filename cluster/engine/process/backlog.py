"""Events that the other process has not taken yet, kept as small as can be: one run of ids per attempt.

A replica whose event loop is busy for a while must neither stop the engine nor have it queue a message per step. So
the ids of later steps join those that wait: what is kept is bounded by the answers of the attempts that are open.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from cluster.engine.client import StepOutput
from cluster.protocol import Finish, Tokens


class Backlog:
    """Events by attempt, in order; those of different attempts may change places."""

    def __init__(self) -> None:
        self._events: dict[int, list[Tokens | Finish]] = {}

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, outputs: Sequence[StepOutput]) -> None:
        """Append the events of one step. O(ids)."""
        for attempt, event in outputs:
            events = self._events.setdefault(attempt, [])
            if not isinstance(event, Tokens):
                events.append(event)
            elif events and isinstance(last := events[-1], Tokens):
                _extend(last, event)
            else:
                events.append(_own(event))

    def take(self) -> list[StepOutput]:
        """All events, which are no longer kept."""
        outputs: list[StepOutput] = [(attempt, event) for attempt, events in self._events.items() for event in events]
        self._events = {}
        return outputs


def _own(tokens: Tokens) -> Tokens:
    """A copy whose lists may grow."""
    logprobs = None if tokens.logprobs is None else list(tokens.logprobs)
    return replace(tokens, ids=list(tokens.ids), logprobs=logprobs)


def _extend(tokens: Tokens, more: Tokens) -> None:
    tokens.ids.extend(more.ids)
    if tokens.logprobs is not None and more.logprobs is not None:  # an attempt has them always or never
        tokens.logprobs.extend(more.logprobs)
