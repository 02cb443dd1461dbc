"""The scripts on one turn, in memory: each function is one of ``scripts.turns`` or ``visits``, on one root's state.

``now`` is unix seconds, ``ttl_s`` what a line without a time of its own lives behind its last turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cluster.protocol import FinishReason
from services.conversations.items import answer_of
from services.conversations.keys import JOURNAL_SPARE_S, MAX_TRIES, TURN_SPARE_S
from services.conversations.memory_state import LineState, RootState, TurnEntry
from services.conversations.records import Conversation, Item, TurnState
from services.conversations.store import Begin, Commit, Note, Reply, Tail, Tailed, Verdict


def new_line(conversation: str, metadata: Mapping[str, str], now: float) -> LineState:
    """A line at version 0, to be renewed."""
    head = Conversation(id=conversation, created_at=int(now), metadata=dict(metadata))
    return LineState(conversation=head, expires_at=now)


def append(root: RootState, line: LineState, items: Sequence[Item]) -> None:
    """Put items at a line's end."""
    root.items.update((item.id, item) for item in items)
    line.items += [item.id for item in items]


def begin(root: RootState, begin: Begin, now: float, ttl_s: float) -> Reply:
    """Accept a turn and make it its line's active one."""
    if root.is_gone(begin.turn, now):
        return Reply(Verdict.GONE)
    if (mine := root.turns.get(begin.turn)) is not None:
        return _begin_again(mine, begin, now)
    line = root.lines.get(begin.line)
    if line is None:
        return _begin_line(root, begin, now, ttl_s)
    return _held(root, line, now) or _accept(root, line, begin, now, ttl_s)


def claim(root: RootState, entry: TurnEntry, owner: str, lease_s: float, now: float) -> Reply:
    """Take a turn that waits, or whose lease has run out."""
    if not entry.state.is_open:
        return Reply(Verdict.TERMINAL)
    if entry.owner != owner or not entry.until:
        if entry.until > now:
            return Reply(Verdict.LIVE, value=round(entry.until * 1000))
        line = root.lines.get(entry.line)
        if line is None:
            return Reply(Verdict.ABSENT)
        line.fence += 1
        entry.owner, entry.fence, entry.state = owner, line.fence, TurnState.RUNNING
        entry.claims += 1
        entry.tries += 1
    entry.until = now + lease_s
    return Reply(Verdict.POISON if entry.tries > MAX_TRIES else Verdict.OK, value=len(entry.ids))


def release(entry: TurnEntry, owner: str, now: float, *, is_queued: bool) -> Reply:
    """Give a turn up."""
    state = TurnState.QUEUED if is_queued else TurnState.RUNNING
    if entry.owner != owner or not (entry.until or entry.state is state):
        return Reply(Verdict.LOST)
    if entry.until:
        entry.until, entry.left_at, entry.state = 0.0, now, state
        entry.claims, entry.tries = max(entry.claims - 1, 0), max(entry.tries - 1, 0)
    return Reply(Verdict.OK)


def note(entry: TurnEntry, note: Note, now: float) -> Reply:
    """Append ids to a journal and renew the lease."""
    if entry.owner != note.owner or not entry.until:
        return Reply(Verdict.LOST)
    entry.until = now + note.lease_s
    entry.moves = max(note.moves, entry.moves)
    held = len(entry.ids)
    if note.start > held:
        return _told(Verdict.GAP, entry, now)
    entry.ids += note.ids[held - note.start :]
    entry.logprobs += note.logprobs[held - note.start :]
    if len(entry.ids) > held:
        entry.journal_expires_at = entry.deadline + JOURNAL_SPARE_S
        entry.tries = 0
    return _told(Verdict.OK, entry, now)


def commit(root: RootState, entry: TurnEntry, commit: Commit, now: float, ttl_s: float) -> Reply:
    """End a turn."""
    if entry.owner != commit.owner or (entry.state.is_open and not entry.until):
        return Reply(Verdict.LOST)
    if not entry.state.is_open:
        return Reply(Verdict.DONE, value=entry.version)
    line = root.lines.get(commit.line)
    if line is None:
        return Reply(Verdict.ABSENT)
    if line.version != commit.base_version or line.active != commit.turn:
        return Reply(Verdict.LOST)
    life_s = line.life_s(ttl_s)
    line.active, line.expires_at, line.hint = "", now + life_s, commit.hint or line.hint
    if commit.items:
        append(root, line, commit.items)
        line.version += 1
    _finish(entry, line, commit, now, life_s)
    return Reply(Verdict.OK, value=line.version)


def cancel(root: RootState, entry: TurnEntry, now: float, ttl_s: float) -> TurnState:
    """Ask to end a turn."""
    if not entry.state.is_open:
        return entry.state
    if entry.is_running or entry.ids:
        entry.is_cancelled = True
        return entry.state
    line = root.lines.get(entry.line)
    if line is not None:
        line.active = "" if line.active == entry.id else line.active
        entry.version, entry.last = line.version, line.last
        ttl_s = line.life_s(ttl_s)
    entry.state, entry.owner, entry.finish = TurnState.CANCELLED, "", FinishReason.ABORTED
    entry.ended_at, entry.expires_at = int(now), now + ttl_s
    return entry.state


def tail(entry: TurnEntry, tail: Tail, now: float) -> Tailed:
    """A reader's look at a turn."""
    if tail.watch_s:
        entry.seen_until = max(entry.seen_until, now + tail.watch_s)
    if not entry.state.is_open or entry.journal_expires_at <= now:
        return Tailed(entry.state)
    return Tailed(entry.state, entry.ids[tail.after :], entry.logprobs[tail.after :])


def erase(root: RootState, entry: TurnEntry, now: float) -> None:
    """Erase one turn, and everything with it when nothing else is left."""
    del root.turns[entry.id]
    root.bury(entry.id, now)
    line = root.lines.get(entry.line)
    if line is None:
        return
    is_free = line.active in {"", entry.id}
    line.active = "" if is_free else line.active
    if not line.is_hidden:
        return
    for name in [*entry.inputs, *([entry.answer] if entry.answer else [])]:
        root.items.pop(name, None)
        line.items = [held for held in line.items if held != name]
    line.version += is_free
    if not root.turns and root.conversation is None:
        root.erase(now)


def _begin_again(mine: TurnEntry, begin: Begin, now: float) -> Reply:
    if mine.owner != begin.owner or mine.state is not begin.state:
        return Reply(Verdict.EXISTS)
    if mine.is_running:
        if not mine.until:
            return Reply(Verdict.EXISTS)
        mine.until = now + begin.lease_s
    return Reply(Verdict.OK, value=mine.fence)


def _told(verdict: Verdict, entry: TurnEntry, now: float) -> Reply:
    seen_s = max(entry.seen_until - now, 0.0)
    return Reply(verdict, value=len(entry.ids), cancel=entry.is_cancelled, seen_s=seen_s)


def _held(root: RootState, line: LineState, now: float) -> Reply | None:
    """The refusal by a line's active turn. A record that is gone altogether no longer holds its line."""
    active = root.turns.get(line.active)
    if active is None:
        return None
    if not active.is_running or active.until > now:
        return Reply(Verdict.BUSY, turn=line.active)
    return Reply(Verdict.EXPIRED, value=round((now - (active.until or active.left_at)) * 1000), turn=line.active)


def _shared(root: RootState, begin: Begin) -> list[str] | None:
    """The items that a new line begins with; None when what it leaves is gone."""
    if begin.fork is None or not begin.fork.last:
        return []
    left = root.lines.get(begin.fork.line)
    if left is None or begin.fork.last not in left.items:
        return None
    return left.items[: left.items.index(begin.fork.last) + 1]


def _begin_line(root: RootState, begin: Begin, now: float, ttl_s: float) -> Reply:
    if not begin.new_line:
        return Reply(Verdict.ABSENT)
    if begin.base_version:
        return Reply(Verdict.VERSION)
    shared = _shared(root, begin)
    if shared is None:
        return Reply(Verdict.ABSENT)
    line = root.lines[begin.line] = new_line(begin.conversation, {}, now)
    line.items += shared
    return _accept(root, line, begin, now, ttl_s)


def _accept(root: RootState, line: LineState, begin: Begin, now: float, ttl_s: float) -> Reply:
    if line.version != begin.base_version:
        return Reply(Verdict.VERSION, value=line.version)
    line.fence += 1
    life_s = begin.deadline_s + TURN_SPARE_S
    line.active, line.ttl_s = begin.turn, begin.ttl_s
    line.expires_at = now + max(line.life_s(ttl_s), life_s)
    root.turns[begin.turn] = TurnEntry(
        id=begin.turn,
        line=begin.line,
        request=begin.request,
        base_version=begin.base_version,
        owner=begin.owner,
        fence=line.fence,
        until=now + begin.lease_s if begin.state is TurnState.RUNNING else 0.0,
        deadline=now + begin.deadline_s,
        created_at=int(now),
        expires_at=now + life_s,
        state=begin.state,
    )
    return Reply(Verdict.OK, value=line.fence)


def _finish(entry: TurnEntry, line: LineState, commit: Commit, now: float, life_s: float) -> None:
    answer = answer_of(commit.items)
    entry.state, entry.version, entry.last = commit.state, line.version, line.last
    entry.finish, entry.usage, entry.until = commit.finish, dict(commit.usage), 0.0
    entry.error_code, entry.error_message = commit.error_code, commit.error_message
    entry.ids, entry.logprobs = list(commit.ids), list(commit.logprobs)
    entry.answer = answer.id if answer else ""
    entry.ended_at, entry.expires_at = int(now), now + life_s
    if commit.items:
        entry.inputs = [item.id for item in commit.items if item is not answer]
        entry.request = msgspec.structs.replace(entry.request, input=[])
