"""A turn that waits, or whose owner has died, brought to its end by whoever has room for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from cluster.errors import CallerError, ClusterError, NotFoundError, RetryLaterError, TurnError, TurnMovedError
from services.conversations.records import TurnState
from services.conversations.store import Verdict
from services.turns import orphans
from services.turns.accepted import Accepted
from services.turns.adoption import make_ready
from services.turns.orphans import Claimed
from services.turns.parts import TurnParts

Run = Callable[[Accepted], Awaitable[ClusterError | None]]


class Fate(Enum):
    """What became of a turn."""

    ENDED = auto()  # by this call, or before
    FAILED = auto()  # ended, and an operator may want to know
    OWNED = auto()  # somebody else has it
    WAITS = auto()  # for room: it is to be tried again later
    GONE = auto()  # there is no such turn (any more)


@dataclass(frozen=True, slots=True)
class Carried:
    """A turn's fate.

    Attributes:
        fate: what became of it.
        error: why, where this call met it.
        reason: a stable code for why, also where another owner met it; "" for a turn that goes well.
    """

    fate: Fate
    error: ClusterError | None = None
    reason: str = ""


async def carry_out(parts: TurnParts, tenant: str, turn: str, run: Run) -> Carried:
    """Claim the turn and end it: from where its journal ends, or at once where nobody can go on from there.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    claimed = await orphans.claim(parts, tenant, turn)
    if not isinstance(claimed, Claimed):
        return await _as_recorded(parts, tenant, turn, claimed.verdict)
    parts.metrics.adoptions += 1
    if claimed.record.is_cancelled:
        await orphans.end(parts, claimed, TurnState.CANCELLED)
        return Carried(Fate.ENDED)
    if claimed.journal.is_broken:
        return await _fail(parts, claimed, orphans.holed(claimed))
    if claimed.is_poison:
        return await _fail(parts, claimed, orphans.poisoned())
    try:
        accepted = await make_ready(parts, claimed)
    except (TurnError, CallerError) as error:
        return await _fail(parts, claimed, error)
    return _carried(await run(accepted))


async def give_up(parts: TurnParts, tenant: str, turn: str, carried: Carried) -> None:
    """End a turn that waits as failed, by what it met last. Somebody else has it: nothing to do.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    claimed = await orphans.claim(parts, tenant, turn)
    if isinstance(claimed, Claimed):
        await orphans.end(parts, claimed, TurnState.FAILED, carried.error or orphans.poisoned())


async def _as_recorded(parts: TurnParts, tenant: str, turn: str, verdict: Verdict) -> Carried:
    """The fate of a turn that could not be claimed. A failure counts also where its owner died before telling it."""
    if verdict is Verdict.LIVE:
        return Carried(Fate.OWNED)
    await parts.due.remove(tenant, turn)
    if verdict is not Verdict.TERMINAL:
        return Carried(Fate.GONE)
    try:
        record = await parts.store.turn(tenant, turn)
    except NotFoundError:  # erased meanwhile
        return Carried(Fate.GONE)
    is_failed = record.state is TurnState.FAILED
    return Carried(Fate.FAILED, reason=record.error_code) if is_failed else Carried(Fate.ENDED)


async def _fail(parts: TurnParts, claimed: Claimed, error: ClusterError) -> Carried:
    verdict = await orphans.end(parts, claimed, TurnState.FAILED, error)
    if verdict is Verdict.GONE:  # erased meanwhile
        return Carried(Fate.GONE, error, error.code)
    return Carried(Fate.OWNED) if verdict is Verdict.LOST else Carried(Fate.FAILED, error, error.code)


def _carried(error: ClusterError | None) -> Carried:
    if error is None:
        return Carried(Fate.ENDED)
    if isinstance(error, TurnMovedError):
        return Carried(Fate.OWNED, error, error.code)
    if isinstance(error, NotFoundError):  # erased meanwhile
        return Carried(Fate.GONE, error, error.code)
    return Carried(Fate.WAITS if isinstance(error, RetryLaterError) else Fate.FAILED, error, error.code)
