"""The seam between turns and the place where conversations live.

Rules: one turn at a time per conversation, a lease with an owner token guards every write, and every write may be
sent twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from cluster.protocol import Hint, Logprobs
from services.conversations.item_store import ItemStore
from services.conversations.keys import MAIN_LINE
from services.conversations.records import Item, Line, TurnRecord, TurnRequest, TurnState


class Verdict(StrEnum):
    """What a write was answered."""

    OK = "ok"
    BUSY = "busy"  # begin: another turn is active, or waits for its turn
    EXPIRED = "expired"  # begin: another turn is active, but its owner is gone; ``value``: since when (ms)
    VERSION = "version"  # begin: the line has moved on since it was loaded
    EXISTS = "exists"  # begin: this very turn is there, and not as its maker began it (who hears OK again)
    LIVE = "live"  # claim: its owner still lives
    POISON = "poison"  # claim: it outlived too many owners; the caller owns it now, to end it as failed
    TERMINAL = "terminal"  # claim: it has ended
    GAP = "gap"  # note: ids are missing before these; ``have`` says how many are held
    LOST = "lost"  # another owner holds the lease
    ABSENT = "absent"  # no such record
    GONE = "gone"  # erased
    DONE = "done"  # commit: this owner has already committed
    AWAY = "away"  # note: the record's server does not answer, though that of another note does


@dataclass(frozen=True, slots=True)
class Reply:
    """A verdict with what belongs to it.

    ``turn``: the active turn (BUSY, EXPIRED). ``value``: fence, version, ids held or milliseconds.
    """

    verdict: Verdict
    value: int = 0
    turn: str = ""
    cancel: bool = False  # note: somebody asked to cancel the turn
    seen_s: float = 0.0  # note: a reader of the turn will be back within this


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a new branch leaves a line: behind the item ``last``; "" is the line's beginning."""

    line: str
    last: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Accept a turn.

    ``owner`` is a random 128-bit token (hex). A QUEUED turn has its maker's: a begin that is sent again is known by it.
    """

    tenant: str
    turn: str
    conversation: str
    owner: str
    base_version: int
    lease_s: float
    deadline_s: float
    request: TurnRequest
    new_line: bool = False  # create the (hidden) line too
    line: str = MAIN_LINE
    fork: Fork | None = None  # what the new line begins with
    state: TurnState = TurnState.RUNNING
    ttl_s: int | None = None  # how long the line lives after its last turn or change, from now on; None: the store's


@dataclass(frozen=True, slots=True)
class Note:
    """Append ids to a turn's journal and renew its lease.

    ``start`` is the index of ids[0]; ids may be empty. ``logprobs`` has one entry per id, equally many best ones in
    each, or none at all. ``moves``: how often the answer went on elsewhere so far.
    """

    tenant: str
    turn: str
    owner: str
    start: int
    ids: Sequence[int]
    lease_s: float
    logprobs: Sequence[Logprobs] = ()
    moves: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """End a turn: append its input and answer to the line in one step. A failed turn appends nothing.

    ``ids`` are all that were generated; those that the answer keeps may be fewer or others.
    """

    tenant: str
    turn: str
    conversation: str
    owner: str
    state: TurnState
    base_version: int
    items: Sequence[Item]  # input items, then the answer; empty when failed
    ids: Sequence[int]
    finish: str
    usage: Mapping[str, int]
    hint: Hint | None = None
    line: str = MAIN_LINE
    logprobs: Sequence[Logprobs] = ()
    error_code: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class Tail:
    """A look at a turn: its state, and the ids behind the first ``after``, which must be the end of a segment."""

    tenant: str
    turn: str
    after: int = 0
    watch_s: float = 0.0  # tells the owner that this reader will be back within this; 0: nothing


@dataclass(frozen=True, slots=True)
class Tailed:
    """What a look found.

    ``state`` None: there is no such turn (any more). An ended turn has no journal: its record holds the ids.
    ``is_broken``: the journal has a hole, for the server lost writes. ``is_away``: the record's server does not answer,
    though that of another look does.
    """

    state: TurnState | None
    ids: Sequence[int] = ()
    logprobs: Sequence[Logprobs] = ()
    is_broken: bool = False
    is_away: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an idempotency key stands for: the digest of the request's body, and the turn it began."""

    body: str
    turn: str


@dataclass(frozen=True, slots=True)
class Part:
    """What to read of a line.

    Attributes:
        line: its name; None: the conversation that somebody made.
        newest: so many items; 0: all.
        oldest: so many of the first ones too.
        upto: the item to read up to; "": the end.
    """

    line: str | None = None
    newest: int = 0
    oldest: int = 0
    upto: str = ""


WHOLE: Final = Part()


class ConversationStore(ItemStore, Protocol):
    """Conversations, and the turns on them.

    Every method raises StoreUnavailableError within two seconds when the store does not answer.
    """

    async def load(self, tenant: str, conversation: str, part: Part = WHOLE) -> Line:
        """A line, or a part of it.

        Raises:
            NotFoundError: there is none, or not that item; a hidden line is no conversation.
        """
        ...

    async def begin(self, begin: Begin) -> Reply:
        """OK (again for the same owner), BUSY, EXPIRED, VERSION, EXISTS, GONE or ABSENT."""
        ...

    async def claim(self, tenant: str, turn: str, *, owner: str, lease_s: float) -> Reply:
        """Take over a turn that waits, or whose lease has run out.

        OK (``value`` ids held), POISON (the same, but only to end it), LIVE, TERMINAL, ABSENT or GONE.
        """
        ...

    async def release(self, tenant: str, turn: str, *, owner: str, is_queued: bool) -> Reply:
        """Give a turn up for others to claim at once; ``is_queued``: from the queue. OK, LOST, ABSENT or GONE.

        The claim that ends so does not count, and its owner may write no more.
        """
        ...

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        """Write many turns' journals in one round trip; one reply each: OK, GAP, LOST, ABSENT, GONE or AWAY."""
        ...

    async def commit(self, commit: Commit) -> Reply:
        """OK (``value`` version), DONE, LOST, ABSENT or GONE."""
        ...

    async def cancel(self, tenant: str, turn: str) -> TurnState:
        """Ask to end a turn: one that waits and holds no ids ends at once, any other when its owner hears of it.

        Returns the state it is in now: QUEUED when its next owner, who may be the caller, is to end it. Raises
        NotFoundError.
        """
        ...

    async def revive(self, tenant: str, turn: str, *, owner: str, deadline_s: float) -> Reply:
        """Let a failed turn that nobody waits for wait anew, as if it had just been queued: an operator's act.

        OK (again for the same owner), EXISTS (it has not ended), TERMINAL (it did not fail, or somebody waited for it),
        BUSY, VERSION (its line has moved on), ABSENT or GONE.
        """
        ...

    async def turn(self, tenant: str, turn: str) -> TurnRecord:
        """Raises NotFoundError."""
        ...

    async def turn_input(self, tenant: str, record: TurnRecord) -> list[Item]:
        """The input of a turn, whether or not it has ended; without items that were erased."""
        ...

    async def tail(self, tails: Sequence[Tail]) -> list[Tailed]:
        """Look at many turns in one round trip."""
        ...

    async def delete_turn(self, tenant: str, turn: str) -> None:
        """Erase a turn and, unless they belong to a conversation, its items. Raises NotFoundError."""
        ...

    async def pointed_turns(self, tenant: str, conversation: str) -> list[str]:
        """The turns of a root that a queue or the due index may point to; none of an unknown one."""
        ...

    async def is_erased(self, tenant: str, turn: str) -> bool:
        """Whether a turn is known to have been erased; known for a day."""
        ...

    async def reserve(
        self, tenant: str, key: str, reservation: Reservation, *, instead_of: Reservation | None = None
    ) -> Reservation:
        """What an idempotency key (any text) stands for: ``reservation``, or what was reserved before.

        ``instead_of``: a reservation that may be replaced. Of several callers who replace one, the first does.
        """
        ...

    async def ping(self) -> None:
        """Raises StoreUnavailableError when the store does not answer."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True, slots=True)
class Sampled:
    """An answer to a stateless caller as the model gave it: its ids, and where its KV was left."""

    ids: list[int]
    hint: Hint | None = None


class IdIndex(Protocol):
    """Sampled answers of stateless callers, so that an unchanged text gets its ids (and its KV) back.

    Keys are opaque (already hashed with the tenant); entries expire. A lost entry costs a prefill: errors are misses.
    """

    async def get(self, keys: Sequence[bytes]) -> list[Sampled | None]:
        """One entry per key, None where nothing is known."""
        ...

    async def put(self, key: bytes, answer: Sampled) -> None:
        """Remember; returns at once, and never raises for a store that is away."""
        ...
