"""The token that holds a lease, and what it means to have lost one."""

from __future__ import annotations

import secrets

from cluster.errors import ClusterError, NotFoundError, TurnLostError, TurnMovedError
from services.conversations.store import Verdict

_OWNER_BYTES = 16


def new_owner() -> str:
    """128 random bits, hex."""
    return secrets.token_hex(_OWNER_BYTES)


def loss(verdict: Verdict, turn: str) -> ClusterError:
    """Why an owner whose write was answered so may say and write no more."""
    if verdict is Verdict.LOST:
        return TurnMovedError(turn)
    if verdict is Verdict.GONE:  # as for whoever reads it elsewhere
        return NotFoundError("response", turn)
    return TurnLostError("The record of this turn is gone.")
