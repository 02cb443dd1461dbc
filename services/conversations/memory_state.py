"""What the memory store holds, and when it lets go of it.

Times to live are those of the key map; what has expired is treated as absent and dropped when it is next touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.protocol import Hint, Logprobs
from services.conversations.keys import GONE_TTL_S, MAIN_LINE
from services.conversations.records import Conversation, Item, TurnRecord, TurnRequest, TurnState


@dataclass(slots=True)
class LineState:
    """A line with the ids of its items, oldest first."""

    conversation: Conversation
    expires_at: float
    is_hidden: bool = True
    version: int = 0
    active: str = ""
    fence: int = 0
    hint: Hint | None = None
    ttl_s: int | None = None  # its own
    items: list[str] = field(default_factory=list)

    def life_s(self, ttl_s: float) -> float:
        """How long it lives after its last turn or change; ``ttl_s`` where it has no time of its own."""
        return ttl_s if self.ttl_s is None else self.ttl_s

    @property
    def last(self) -> str:
        """Id of its last item."""
        return self.items[-1] if self.items else ""


@dataclass(slots=True)
class TurnEntry:
    """A turn's record with its journal."""

    id: str
    line: str
    request: TurnRequest
    base_version: int
    owner: str
    fence: int
    until: float  # unix seconds; 0 while nobody owns it
    deadline: float
    created_at: int
    expires_at: float
    state: TurnState
    ids: list[int] = field(default_factory=list)
    logprobs: list[Logprobs] = field(default_factory=list)
    journal_expires_at: float = float("inf")
    claims: int = 0
    tries: int = 0  # claims since its last new id
    moves: int = 0
    is_cancelled: bool = False
    seen_until: float = 0.0
    left_at: float = 0.0  # unix seconds, when its last owner gave it up
    version: int = 0  # of the line, as the commit left it
    finish: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    answer: str = ""
    last: str = ""
    error_code: str = ""
    error_message: str = ""
    ended_at: int = 0

    @property
    def is_running(self) -> bool:
        """Whether somebody owns it, or did until his lease ran out."""
        return self.state is TurnState.RUNNING

    def record(self, conversation: str, answer: Item | None) -> TurnRecord:
        """The turn as the store's callers see it. An answer that was erased takes its ids along."""
        is_told = not self.state.is_open and (answer is not None or not self.answer)
        return TurnRecord(
            id=self.id,
            conversation=conversation,
            line=self.line,
            state=self.state,
            request=self.request,
            base_version=self.base_version,
            owner=self.owner,
            fence=self.fence,
            until_ms=round(self.until * 1000),
            total=len(self.ids),
            created_at=self.created_at,
            claims=self.claims,
            moves=self.moves,
            deadline_ms=round(self.deadline * 1000) if self.state.is_open else 0,
            is_cancelled=self.is_cancelled,
            finish=self.finish,
            usage=dict(self.usage),
            answer=answer,
            error_code=self.error_code,
            error_message=self.error_message,
            last=self.last,
            ids=list(self.ids) if is_told else [],
            logprobs=list(self.logprobs) or None if is_told else None,
            ended_at=self.ended_at,
        )


@dataclass(slots=True)
class RootState:
    """All of one root."""

    lines: dict[str, LineState] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    turns: dict[str, TurnEntry] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)  # tombstone of a turn, or of all ("*"), and until when

    @property
    def conversation(self) -> LineState | None:
        """The line that somebody made as a conversation."""
        main = self.lines.get(MAIN_LINE)
        return None if main is None or main.is_hidden else main

    def read(self, names: Sequence[str]) -> list[Item]:
        """The items of these ids; those that were erased are left out."""
        return [self.items[name] for name in names if name in self.items]

    def bury(self, name: str, now: float) -> None:
        """Late writers of this turn (``*``: of all) meet a tombstone for a day."""
        self.gone[name] = now + GONE_TTL_S

    def is_gone(self, turn: str, now: float) -> bool:
        """Whether a turn, or everything, has been erased."""
        return any(self.gone.get(name, 0.0) > now for name in ("*", turn))

    def erase(self, now: float) -> None:
        """Forget everything."""
        self.lines.clear()
        self.items.clear()
        self.turns.clear()
        self.bury("*", now)

    def drop_expired(self, now: float) -> None:
        """Let go of what has outlived its time."""
        for held in (self.lines, self.turns):
            for name in [name for name, one in held.items() if one.expires_at <= now]:
                del held[name]
        for name in [name for name, until in self.gone.items() if until <= now]:
            del self.gone[name]
        if not self.lines:
            self.items.clear()

    @property
    def is_empty(self) -> bool:
        """Whether nothing, not even a tombstone, is left."""
        return not (self.lines or self.turns or self.gone)
