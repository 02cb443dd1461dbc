"""A stored turn that its process owns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.protocol import Logprobs
from services.conversations.records import Item
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
        tenant: whose it is.
        request_id: of the request that asked for it, for logs.
        response_id: ``resp_…``.
        conversation: ``conv_…`` of its root, whether or not somebody made it.
        shown: the conversation that the caller named.
        line: the line of that root which it stands on.
        owner: token of the lease.
        base_version: of the line, when it began.
        sent_at: when the acknowledged write that made us its owner was sent (monotonic).
        created_at: unix seconds.
        items: the input, as it will be appended.
        draft: ready to be generated.
        can_wait: nobody listens who would have to be refused: without a free replica it goes (back) into the queue.
        held: what there is of the answer.
    """

    tenant: str
    request_id: str
    response_id: str
    conversation: str
    shown: str | None
    line: str
    owner: str
    base_version: int
    sent_at: float
    created_at: int
    items: Sequence[Item]
    draft: Draft
    can_wait: bool = False
    held: Held = NOTHING
