"""What turns need of a queue: to publish, and to be looked at again. Here, so that turns import no queue.

Both keep pointers only, and both are hints: the turn's record is the truth, a pointer may be lost or come twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.conversations.keys import Keys

LOOK_LIMIT: Final = 64
HIDE_S: Final = 2.0


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """A pointer to a turn's record; as text ``<tenant>:<turn>``, where neither part has a colon.

    Raises:
        NotFoundError: the turn's id is malformed.
        ValueError: the tenant id has a shape that must never have been let in.
    """

    tenant: str
    turn: str

    def __post_init__(self) -> None:
        Keys.of_turn(self.tenant, self.turn)

    def __str__(self) -> str:
        return f"{self.tenant}:{self.turn}"

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read what ``str`` wrote. Raises as the class does."""
        tenant, _, turn = text.partition(":")
        return cls(tenant, turn)


class Publishes(Protocol):
    """Where turns that nobody waits for are put."""

    async def publish(
        self, tenant: str, turn: str, *, weight: float = 1.0, cost: float = 1.0, max_queued: int | None = None
    ) -> None:
        """Queue a turn; again changes nothing while it is queued, in work or delayed.

        Args:
            tenant: whose turn.
            turn: its id.
            weight: the tenant's share; twice the weight gets twice as much.
            cost: how much this turn is, in any unit, as long as it is one for all tenants.
            max_queued: turns that the tenant may have here; None: as many as any other.

        Raises:
            QueueFullError: the tenant has too many turns in the queue.
            StoreUnavailableError: the store does not answer.
        """
        ...

    async def check_room(self, tenant: str, *, max_queued: int | None = None) -> None:
        """Raises QueueFullError when the tenant has too many turns in the queue for another one; see ``publish``."""
        ...

    async def drop(self, tenant: str, turn: str) -> bool:
        """Forget a turn wherever it is, dead letters too; whether there was any. Its worker learns by ``extend``."""
        ...


class DueIndex(Protocol):
    """When each open turn is to be looked at: written before the record, so it finds what a crash left behind.

    Every method raises StoreUnavailableError within two seconds when the store does not answer.
    """

    async def add(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, or earlier if that was asked before."""
        ...

    async def move(self, tenant: str, turn: str, *, in_s: float) -> None:
        """Look at the turn in ``in_s`` seconds, whatever was asked before.

        Nothing, if it was removed: who moves a turn may be late, and its end may have come before.
        """
        ...

    async def remove(self, tenant: str, turn: str) -> None:
        """Look no more; again changes nothing."""
        ...

    async def look(self, *, limit: int = LOOK_LIMIT, hide_s: float = HIDE_S) -> Sequence[Ref]:
        """Turns that are due, at most about ``limit``, evenly from all parts of the index.

        They are hidden from other lookers for ``hide_s`` and due again afterwards, unless moved or removed by then.
        """
        ...
