"""What the memory store holds, and when it lets go of it.

Times to live are those of the key map; what has expired is treated as absent and dropped when it is next touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.protocol import Hint
from services.conversations.keys import GONE_TTL_S
from services.conversations.records import Conversation, Item, TurnRecord, TurnRequest, TurnState


@dataclass(slots=True)
class LineState:
    """A line with its items, oldest first."""

    conversation: Conversation
    expires_at: float
    version: int = 0
    active: str = ""
    fence: int = 0
    hint: Hint | None = None
    items: list[Item] = field(default_factory=list)

    def position(self, item: str) -> int | None:
        """Index of an item, None when it is not on the line."""
        return next((i for i, held in enumerate(self.items) if held.id == item), None)


@dataclass(slots=True)
class TurnEntry:
    """A turn's record with its journal."""

    id: str
    request: TurnRequest
    base_version: int
    owner: str
    fence: int
    until: float  # unix seconds
    deadline: float
    created_at: int
    expires_at: float
    state: TurnState = TurnState.RUNNING
    ids: list[int] = field(default_factory=list)
    total: int = 0
    journal_expires_at: float = float("inf")
    version: int = 0  # of the line, as the commit left it
    finish: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    answer: Item | None = None
    error_code: str = ""
    error_message: str = ""

    @property
    def is_running(self) -> bool:
        """False once terminal."""
        return self.state is TurnState.RUNNING

    def record(self, conversation: str) -> TurnRecord:
        """The turn as the store's callers see it."""
        return TurnRecord(
            id=self.id,
            conversation=conversation,
            state=self.state,
            request=self.request,
            base_version=self.base_version,
            owner=self.owner,
            fence=self.fence,
            until_ms=round(self.until * 1000) if self.is_running else 0,
            total=self.total,
            created_at=self.created_at,
            finish=self.finish,
            usage=dict(self.usage),
            answer=self.answer,
            error_code=self.error_code,
            error_message=self.error_message,
        )


@dataclass(slots=True)
class RootState:
    """All of one root."""

    line: LineState | None = None
    turns: dict[str, TurnEntry] = field(default_factory=dict)
    gone_until: float = 0.0

    def erase(self, now: float) -> None:
        """Forget everything; late writers meet a tombstone for a day."""
        self.line = None
        self.turns.clear()
        self.gone_until = now + GONE_TTL_S

    def drop_expired(self, now: float) -> None:
        """Let go of what has outlived its time."""
        if self.line is not None and self.line.expires_at <= now:
            self.line = None
        for name in [name for name, turn in self.turns.items() if turn.expires_at <= now]:
            del self.turns[name]

    def is_empty(self, now: float) -> bool:
        """Whether nothing, not even a tombstone, is left."""
        return self.line is None and not self.turns and self.gone_until <= now
