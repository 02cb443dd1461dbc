"""What a caller of the stores must never do. These are mistakes in the program, so they are ValueErrors."""

from __future__ import annotations

from typing import Final

from services.conversations import ids
from services.conversations.records import TurnState
from services.conversations.store import Begin, Commit

_OPEN: Final = (TurnState.QUEUED, TurnState.RUNNING)


def check_begin(begin: Begin) -> None:
    """A turn lives in its conversation's slot."""
    if begin.conversation != ids.conversation_of(begin.turn):
        raise ValueError("a turn's id must carry the root of its conversation")


def check_commit(commit: Commit) -> None:
    """A commit ends its turn, and a failed turn leaves the line as it was."""
    if commit.state in _OPEN:
        raise ValueError(f"a turn cannot end as {commit.state}")
    if commit.state is TurnState.FAILED and commit.items:
        raise ValueError("a failed turn appends nothing")
