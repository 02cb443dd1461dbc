"""A stored turn that its process owns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.protocol import Logprobs
from services.conversations.records import Item
from services.conversations.store import Begin
from services.turns.draft import Draft


@dataclass(frozen=True, slots=True)
class Held:
    """What earlier owners of a turn have made of it.

    Attributes:
        ids: of the answer, as its journal has them.
        logprobs: of ``ids``, where they were asked for.
        moves: how often the answer went on elsewhere.
    """

    ids: Sequence[int] = ()
    logprobs: Sequence[Logprobs] = ()
    moves: int = 0


NOTHING: Final = Held()


class TurnExistsError(Exception):
    """The turn has begun already, by a request that was sent before."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A turn that has begun.

    Attributes:
        begin: what begins its record: once more, where the store has lost it.
        sent_at: when the acknowledged write that made us its owner was sent (monotonic).
        created_at: unix seconds.
        draft: ready to be generated.
        shown: the conversation that the caller named.
        can_wait: nobody listens who would have to be refused: without a free replica it goes (back) into the queue.
        held: what there is of the answer.
    """

    begin: Begin
    sent_at: float
    created_at: int
    draft: Draft
    shown: str | None = None
    can_wait: bool = False
    held: Held = NOTHING

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.begin.tenant

    @property
    def response_id(self) -> str:
        """``resp_…``."""
        return self.begin.turn

    @property
    def owner(self) -> str:
        """The token of our lease."""
        return self.begin.owner

    @property
    def items(self) -> Sequence[Item]:
        """The input, as it will be appended."""
        return self.begin.request.input
