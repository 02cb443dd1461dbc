"""One running turn in the journal: what is still to be written of it, and how long it may speak.

The lease is trusted only up to a local deadline, counted from the moment the last acknowledged write was *sent*.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cluster.errors import ClusterError
from cluster.protocol import Logprobs
from services.conversations.store import Note, Reply, Verdict
from services.turns.accepted import Held
from services.turns.leases import loss
from services.turns.settings import JournalSettings


@dataclass(frozen=True, slots=True)
class News:
    """What the journal heard of a turn.

    Attributes:
        has_failed: it may not go on; ``Ticket.error`` says why.
        is_cancelled: somebody asked to cancel it.
        seen_s: a reader of its record will be back within this.
    """

    has_failed: bool = False
    is_cancelled: bool = False
    seen_s: float = 0.0


class Ticket:
    """A running turn's place in the journal, held by the turn's owner.

    Args:
        settings: times.
        clock: monotonic seconds.
        wake: called when something of it cannot wait for the journal's next tick.
        tenant: of the turn.
        turn: its id.
        owner: the token of its lease.
        sent_at: when the write that made us its owner was sent (monotonic).
        held: what the journal holds of it already.
        on_news: called with what is heard of the turn.
        begin_again: makes the record anew by the same owner, where a failover of the store has lost it.

    Attributes:
        begin_again: as it was given.
        error: why the turn may not go on, once that is known; it is final.
    """

    def __init__(
        self,
        settings: JournalSettings,
        clock: Callable[[], float],
        wake: Callable[[], None],
        *,
        tenant: str,
        turn: str,
        owner: str,
        sent_at: float,
        held: Held,
        on_news: Callable[[News], None],
        begin_again: Callable[[], Awaitable[Reply]],
    ) -> None:
        self.begin_again = begin_again
        self.error: ClusterError | None = None
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._tenant = tenant
        self._turn = turn
        self._owner = owner
        self._on_news = on_news
        self._ids = list(held.ids)
        self._logprobs = list(held.logprobs)
        self._moves = held.moves
        self._noted = len(self._ids)  # ids the store is known to hold
        self._sent_at = sent_at  # of the last acknowledged write
        self._changed = asyncio.Event()
        self._ended: ClusterError | None = None

    def extend(self, ids: Sequence[int], logprobs: Sequence[Logprobs] = (), moves: int = 0) -> None:
        """More ids of the answer, with their log probabilities where they are kept; they are written soon.

        ``moves``: how often the answer went on elsewhere, all in all.
        """
        is_first = not self._ids
        self._ids += ids
        self._logprobs += logprobs
        self._moves = moves
        if is_first or self.waiting >= self._settings.flush_ids:
            self._wake()

    @property
    def turn(self) -> str:
        """Its id."""
        return self._turn

    @property
    def total(self) -> int:
        """Ids handed over so far."""
        return len(self._ids)

    @property
    def waiting(self) -> int:
        """Ids not yet written."""
        return len(self._ids) - self._noted

    def can_emit(self) -> bool:
        """Whether the lease certainly holds now; nothing may be said to the client otherwise."""
        return self.error is None and self._clock() < self.deadline

    @property
    def deadline(self) -> float:
        """Monotonic time up to which the lease certainly holds."""
        return self._sent_at + self._settings.lease_s - self._settings.margin_s

    async def emittable(self) -> None:
        """Return once the lease certainly holds.

        Raises:
            ClusterError: it never will; why the turn may not go on, or has ended.
        """
        while not self.can_emit():
            if (error := self.error or self._ended) is not None:
                raise error
            self._changed.clear()
            await self._changed.wait()

    def confirm(self, sent_at: float) -> None:
        """A write sent at ``sent_at`` was acknowledged."""
        self._sent_at = max(self._sent_at, sent_at)
        self._changed.set()

    def release(self) -> None:
        """The turn's end is recorded: what is still to be said needs no lease."""
        self.confirm(math.inf)

    def end(self, error: ClusterError) -> None:
        """The turn has ended in an error, and nobody renews its lease: past that, the error is all there is to say."""
        self._ended = error
        self._changed.set()

    def fail(self, error: ClusterError) -> None:
        """The turn may not go on; its owner is told at once."""
        if self.error is None:
            self.error = error
            self._changed.set()
            self._on_news(News(has_failed=True))

    def is_due(self, now: float) -> bool:
        """Whether ids or a sign of life should be written now."""
        return self.waiting > 0 or now - self._sent_at >= self._settings.renew_s - self._settings.flush_s

    def is_urgent(self) -> bool:
        """Whether that cannot wait for the next tick: the first ids, or many."""
        return self.waiting >= self._settings.flush_ids or (self.waiting > 0 and self._noted == 0)

    def note(self) -> Note:
        """What the store does not have yet."""
        return Note(
            tenant=self._tenant,
            turn=self._turn,
            owner=self._owner,
            start=self._noted,
            ids=self._ids[self._noted :],
            lease_s=self._settings.lease_s,
            logprobs=self._logprobs[self._noted :],
            moves=self._moves,
        )

    def settle(self, reply: Reply, sent_at: float) -> None:
        """Take the store's answer to a note."""
        if reply.verdict in {Verdict.OK, Verdict.GAP}:  # a gap renews the lease too, and says where to go on
            self._noted = reply.value
            self.confirm(sent_at)
        else:
            self.fail(loss(reply.verdict, self._turn))
        if reply.cancel or reply.seen_s:
            self._on_news(News(is_cancelled=reply.cancel, seen_s=reply.seen_s))
