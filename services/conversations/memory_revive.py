"""The script that opens a failed turn again, in memory."""

from __future__ import annotations

from services.conversations.keys import TURN_SPARE_S
from services.conversations.memory_state import RootState, TurnEntry
from services.conversations.records import TurnState
from services.conversations.store import Reply, Verdict


def revive(root: RootState, entry: TurnEntry, *, owner: str, deadline_s: float, now: float) -> Reply:
    """Let a failed turn that nobody waits for wait anew."""
    if entry.state.is_open:
        is_same = entry.state is TurnState.QUEUED and entry.owner == owner
        return Reply(Verdict.OK if is_same else Verdict.EXISTS)
    if entry.state is not TurnState.FAILED or not entry.request.is_background:
        return Reply(Verdict.TERMINAL)
    line = root.lines.get(entry.line)
    if line is None:
        return Reply(Verdict.ABSENT)
    if line.active:
        return Reply(Verdict.BUSY, turn=line.active)
    if line.version != entry.base_version:
        return Reply(Verdict.VERSION, value=line.version)
    life_s = deadline_s + TURN_SPARE_S
    line.active, line.expires_at = entry.id, max(line.expires_at, now + life_s)
    root.turns[entry.id] = TurnEntry(
        id=entry.id,
        line=entry.line,
        request=entry.request,
        base_version=entry.base_version,
        owner=owner,
        fence=entry.fence,
        until=0.0,
        deadline=now + deadline_s,
        created_at=entry.created_at,
        expires_at=now + life_s,
        state=TurnState.QUEUED,
    )
    return Reply(Verdict.OK)
