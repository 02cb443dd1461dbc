"""Dead letters queued again, together with the turns that they point at.

A dead letter's turn has ended as failed, so queueing the pointer alone would do nothing: the record is opened first.
Each step may be the last before a crash: the turn is in the due index before it is opened, so that a dispatcher finds
one that was opened and not queued.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from services.conversations.queueing import DueIndex, Ref
from services.conversations.store import ConversationStore, Verdict
from services.queue.base import Queue
from services.turns.leases import new_owner
from services.turns.settings import TurnSettings

_SIDE_BY_SIDE: Final = 32
_FOUND_IN_S: Final = 15.0  # by a dispatcher, if this process dies
_REASONS: Final = {
    Verdict.TERMINAL: "it did not fail in the background",
    Verdict.BUSY: "another turn of its conversation is open",
    Verdict.VERSION: "its conversation has gone on since",
    Verdict.ABSENT: "its record is gone",
    Verdict.GONE: "it was erased",
}


@dataclass(slots=True)
class Replayed:
    """How many letters were queued again, and for how many others why not."""

    queued: int = 0
    refused: Counter[str] = field(default_factory=Counter)


async def replay(store: ConversationStore, due: DueIndex, queue: Queue, refs: Sequence[Ref]) -> Replayed:
    """Open the turns of dead letters and queue them. Letters whose turns cannot be opened stay where they are.

    Raises:
        StoreUnavailableError: the store does not answer; what was queued stays so.
    """
    done = Replayed()
    for first in range(0, len(refs), _SIDE_BY_SIDE):
        some = refs[first : first + _SIDE_BY_SIDE]
        verdicts = await asyncio.gather(*(_open(store, due, ref) for ref in some))
        opened = [ref for ref, verdict in zip(some, verdicts, strict=True) if verdict not in _REASONS]
        done.queued += await queue.replay(opened)
        done.refused += Counter(_REASONS[verdict] for verdict in verdicts if verdict in _REASONS)
    return done


async def _open(store: ConversationStore, due: DueIndex, ref: Ref) -> Verdict:
    await due.add(ref.tenant, ref.turn, in_s=_FOUND_IN_S)
    waiting_s = TurnSettings().waiting_s
    reply = await store.revive(ref.tenant, ref.turn, owner=new_owner(), deadline_s=waiting_s)
    return reply.verdict
