"""The seam between turns and the place where conversations live.

Rules: one turn at a time per conversation, a lease with an owner token guards every write, and every write may be
sent twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cluster.protocol import Hint
from services.conversations.records import Conversation, Item, Line, TurnRecord, TurnRequest, TurnState


class Verdict(StrEnum):
    """What a write was answered."""

    OK = "ok"
    BUSY = "busy"  # begin: another turn is active and its lease lives
    EXPIRED = "expired"  # begin: another turn is active, but its owner is gone; claim and commit it first
    VERSION = "version"  # begin: the line has moved on since it was loaded
    EXISTS = "exists"  # begin: this very turn has ended, or another owner runs it (its own owner hears OK again)
    LIVE = "live"  # claim: its owner still lives
    TERMINAL = "terminal"  # claim: it has ended
    GAP = "gap"  # note: ids are missing before these; ``have`` says how many are held
    LOST = "lost"  # another owner holds the lease
    ABSENT = "absent"  # no such record
    GONE = "gone"  # erased
    DONE = "done"  # commit: this owner has already committed


@dataclass(frozen=True, slots=True)
class Reply:
    """A verdict with what belongs to it.

    ``turn``: the active turn (BUSY, EXPIRED). ``value``: fence, version or ids held.
    """

    verdict: Verdict
    value: int = 0
    turn: str = ""
    cancel: bool = False  # note: somebody asked to cancel the turn


@dataclass(frozen=True, slots=True)
class Begin:
    """Accept a turn. ``owner`` is a random 128-bit token (hex)."""

    tenant: str
    turn: str
    conversation: str
    owner: str
    base_version: int
    lease_s: float
    deadline_s: float
    request: TurnRequest
    new_line: bool = False  # create the (unlisted) line too


@dataclass(frozen=True, slots=True)
class Note:
    """Append ids to a turn's journal and renew its lease. ``start`` is the index of ids[0]; ids may be empty."""

    tenant: str
    turn: str
    owner: str
    start: int
    ids: Sequence[int]
    lease_s: float


@dataclass(frozen=True, slots=True)
class Commit:
    """End a turn: append its input and answer to the line in one step. A failed turn appends nothing."""

    tenant: str
    turn: str
    conversation: str
    owner: str
    state: TurnState
    base_version: int
    items: Sequence[Item]  # input items, then the answer; empty when failed
    total: int
    finish: str
    usage: Mapping[str, int]
    hint: Hint | None = None
    error_code: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A page of items. ``has_more`` speaks of the direction asked for."""

    items: Sequence[Item]
    has_more: bool


class ConversationStore(Protocol):
    """Every method raises StoreUnavailableError within two seconds when the store does not answer."""

    async def create(self, tenant: str, *, metadata: Mapping[str, str], items: Sequence[Item] = ()) -> Conversation:
        """Make a conversation; item ids are assigned here when empty."""
        ...

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        """Raises NotFoundError."""
        ...

    async def load(self, tenant: str, conversation: str, *, newest: int = 0) -> Line:
        """The line with its newest items (0: all). Raises NotFoundError."""
        ...

    async def items(
        self, tenant: str, conversation: str, *, after: str | None, limit: int, descending: bool
    ) -> ItemPage:
        """Raises NotFoundError, for an unknown ``after`` too."""
        ...

    async def delete(self, tenant: str, conversation: str) -> None:
        """Erase the conversation and all its turns. Raises NotFoundError."""
        ...

    async def begin(self, begin: Begin) -> Reply:
        """OK (again for the same owner), BUSY, EXPIRED, VERSION, EXISTS, GONE or ABSENT."""
        ...

    async def claim(self, tenant: str, turn: str, *, owner: str, lease_s: float) -> Reply:
        """Take an expired turn over: OK (``value`` ids held), LIVE, TERMINAL, ABSENT or GONE."""
        ...

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        """Write many turns' journals in one round trip; one reply each: OK, GAP, LOST, ABSENT or GONE."""
        ...

    async def commit(self, commit: Commit) -> Reply:
        """OK (``value`` version), DONE, LOST, ABSENT or GONE."""
        ...

    async def turn(self, tenant: str, turn: str) -> TurnRecord:
        """Raises NotFoundError."""
        ...

    async def journal(self, tenant: str, turn: str) -> list[int]:
        """Ids journalled so far, in order; none five minutes after the turn's end. Raises NotFoundError."""
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
