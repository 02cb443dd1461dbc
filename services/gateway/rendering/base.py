"""What a kind of answer must know to write itself."""

from __future__ import annotations

from typing import Protocol

from services.gateway.problems import Problem
from services.turns.events import TurnEvent, TurnResult


class Rendering(Protocol):
    """One turn's answer in one of OpenAI's shapes. Made when the turn has started; sees its events in order."""

    def frames(self, event: TurnEvent) -> bytes:
        """The event as server-sent events: none, one or several."""
        ...

    def broken(self, problem: Problem) -> bytes:
        """The stream's last event, when something outside the turn went wrong."""
        ...

    def whole(self, event: TurnEvent, result: TurnResult) -> bytes:
        """The JSON body of a turn that ended with ``event``."""
        ...
