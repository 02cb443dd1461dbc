"""The ConversationStore of one process, for tests and for a gateway without Redis. It forgets when the process ends.

Answers are those of the Redis store, verdict for verdict: one contract suite runs on both. Nothing awaits inside, so
every method is as atomic as a script.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from cluster.errors import NotFoundError
from services.conversations import ids
from services.conversations.checks import check_begin, check_commit
from services.conversations.items import answer_id, name_items
from services.conversations.keys import HISTORY_TTL_S, JOURNAL_END_S, JOURNAL_SPARE_S, TURN_SPARE_S, Keys
from services.conversations.memory_state import LineState, RootState, TurnEntry
from services.conversations.records import Conversation, Item, Line, TurnRecord
from services.conversations.store import Begin, Commit, ItemPage, Note, Reply, Verdict


class MemoryConversationStore:
    """See ``ConversationStore``.

    Args:
        history_ttl_s: seconds a conversation lives after its last turn.
        clock: unix seconds; tests hand in their own.
    """

    def __init__(self, *, history_ttl_s: int = HISTORY_TTL_S, clock: Callable[[], float] = time.time) -> None:
        self._history_ttl_s = history_ttl_s
        self._clock = clock
        self._roots: dict[Keys, RootState] = {}

    async def create(self, tenant: str, *, metadata: Mapping[str, str], items: Sequence[Item] = ()) -> Conversation:
        """Make a conversation; item ids are assigned here when empty."""
        name = ids.new_conversation()
        line = self._new_line(name, metadata)
        line.items += name_items(items, name)
        self._root(Keys.of_conversation(tenant, name)).line = line
        return line.conversation

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        """Raises NotFoundError."""
        return self._line(tenant, conversation).conversation

    async def load(self, tenant: str, conversation: str, *, newest: int = 0) -> Line:
        """The line with its newest items (0: all). Raises NotFoundError."""
        line = self._line(tenant, conversation)
        return Line(
            conversation=line.conversation,
            version=line.version,
            active=line.active,
            hint=line.hint,
            items=line.items[-newest:],
        )

    async def items(
        self, tenant: str, conversation: str, *, after: str | None, limit: int, descending: bool
    ) -> ItemPage:
        """Raises NotFoundError, for an unknown ``after`` too."""
        line = self._line(tenant, conversation)
        ordered = line.items[::-1] if descending else line.items
        start = 0
        if after:
            position = line.position(after)
            if position is None:
                raise NotFoundError("item", after)
            start = len(ordered) - position if descending else position + 1
        return ItemPage(items=ordered[start : start + limit], has_more=start + limit < len(ordered))

    async def delete(self, tenant: str, conversation: str) -> None:
        """Erase the conversation and all its turns. Raises NotFoundError."""
        self._line(tenant, conversation)
        self._root(Keys.of_conversation(tenant, conversation)).erase(self._clock())

    async def begin(self, begin: Begin) -> Reply:
        """OK (again for the same owner), BUSY, EXPIRED, VERSION, EXISTS, GONE or ABSENT."""
        check_begin(begin)
        root = self._root(Keys.of_conversation(begin.tenant, begin.conversation))
        now = self._clock()
        if root.gone_until > now:
            return Reply(Verdict.GONE)
        if (mine := root.turns.get(begin.turn)) is not None:
            return _begin_again(mine, begin, now)
        line = root.line
        if line is None:
            if not begin.new_line:
                return Reply(Verdict.ABSENT)
            line = self._new_line(begin.conversation, {})
        return _held(root, line, now) or self._accept(root, line, begin, now)

    async def claim(self, tenant: str, turn: str, *, owner: str, lease_s: float) -> Reply:
        """Take an expired turn over: OK (``value`` ids held), LIVE, TERMINAL, ABSENT or GONE."""
        root, entry, refusal = self._writable(tenant, turn)
        if entry is None:
            return refusal
        if not entry.is_running:
            return Reply(Verdict.TERMINAL)
        now = self._clock()
        if entry.owner != owner:
            if entry.until > now:
                return Reply(Verdict.LIVE, value=round(entry.until * 1000))
            if root.line is None:
                return Reply(Verdict.ABSENT)
            root.line.fence += 1
            entry.owner, entry.fence = owner, root.line.fence
        entry.until = now + lease_s
        return Reply(Verdict.OK, value=entry.total)

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        """Write many turns' journals; one reply each: OK, GAP, LOST, ABSENT or GONE."""
        return [self._note(note) for note in notes]

    async def commit(self, commit: Commit) -> Reply:
        """OK (``value`` version), DONE, LOST, ABSENT or GONE."""
        check_commit(commit)
        root, entry, refusal = self._writable(commit.tenant, commit.turn)
        if entry is None:
            return refusal
        if entry.owner != commit.owner:
            return Reply(Verdict.LOST)
        if not entry.is_running:
            return Reply(Verdict.DONE, value=entry.version)
        line = root.line
        if line is None:
            return Reply(Verdict.ABSENT)
        if line.version != commit.base_version or line.active != commit.turn:
            return Reply(Verdict.LOST)
        self._append(line, commit)
        self._finish(entry, line, commit)
        return Reply(Verdict.OK, value=line.version)

    async def turn(self, tenant: str, turn: str) -> TurnRecord:
        """Raises NotFoundError."""
        return self._turn(tenant, turn).record(ids.conversation_of(turn))

    async def journal(self, tenant: str, turn: str) -> list[int]:
        """Ids journalled so far, in order; none five minutes after the turn's end. Raises NotFoundError."""
        entry = self._turn(tenant, turn)
        return list(entry.ids) if entry.journal_expires_at > self._clock() else []

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """Nothing to release; what is stored stays readable."""

    def _root(self, keys: Keys) -> RootState:
        """The root's state, to be written to; empty roots are dropped on the way in."""
        now = self._clock()
        root = self._roots.setdefault(keys, RootState())
        root.drop_expired(now)
        return root

    def _known(self, keys: Keys) -> RootState:
        """The root's state, to be read: nothing is kept for a root that nobody made."""
        root = self._root(keys)
        if root.is_empty(self._clock()):
            del self._roots[keys]
        return root

    def _line(self, tenant: str, conversation: str) -> LineState:
        line = self._known(Keys.of_conversation(tenant, conversation)).line
        if line is None:
            raise NotFoundError("conversation", conversation)
        return line

    def _turn(self, tenant: str, turn: str) -> TurnEntry:
        entry = self._known(Keys.of_turn(tenant, turn)[0]).turns.get(turn)
        if entry is None:
            raise NotFoundError("response", turn)
        return entry

    def _writable(self, tenant: str, turn: str) -> tuple[RootState, TurnEntry | None, Reply]:
        """The turn, or the refusal of a write to it."""
        root = self._known(Keys.of_turn(tenant, turn)[0])
        if root.gone_until > self._clock():
            return root, None, Reply(Verdict.GONE)
        return root, root.turns.get(turn), Reply(Verdict.ABSENT)

    def _new_line(self, conversation: str, metadata: Mapping[str, str]) -> LineState:
        now = self._clock()
        head = Conversation(id=conversation, created_at=int(now), metadata=dict(metadata))
        return LineState(conversation=head, expires_at=now + self._history_ttl_s)

    def _accept(self, root: RootState, line: LineState, begin: Begin, now: float) -> Reply:
        if line.version != begin.base_version:
            return Reply(Verdict.VERSION, value=line.version)
        line.fence += 1
        line.active = begin.turn
        line.expires_at = now + self._history_ttl_s
        root.line = line
        root.turns[begin.turn] = TurnEntry(
            id=begin.turn,
            request=begin.request,
            base_version=begin.base_version,
            owner=begin.owner,
            fence=line.fence,
            until=now + begin.lease_s,
            deadline=now + begin.deadline_s,
            created_at=int(now),
            expires_at=now + begin.deadline_s + TURN_SPARE_S,
        )
        return Reply(Verdict.OK, value=line.fence)

    def _note(self, note: Note) -> Reply:
        _, entry, refusal = self._writable(note.tenant, note.turn)
        if entry is None:
            return refusal
        if entry.owner != note.owner or not entry.is_running:
            return Reply(Verdict.LOST)
        entry.until = self._clock() + note.lease_s
        if note.start > entry.total:
            return Reply(Verdict.GAP, value=entry.total)
        entry.ids += note.ids[entry.total - note.start :]
        entry.total = len(entry.ids)
        entry.journal_expires_at = entry.deadline + JOURNAL_SPARE_S
        return Reply(Verdict.OK, value=entry.total)

    def _append(self, line: LineState, commit: Commit) -> None:
        line.active = ""
        line.expires_at = self._clock() + self._history_ttl_s
        line.hint = commit.hint or line.hint
        if commit.items:
            line.items += commit.items
            line.version += 1

    def _finish(self, entry: TurnEntry, line: LineState, commit: Commit) -> None:
        now = self._clock()
        entry.state, entry.version, entry.total = commit.state, line.version, commit.total
        entry.finish, entry.usage = commit.finish, dict(commit.usage)
        entry.error_code, entry.error_message = commit.error_code, commit.error_message
        entry.answer = commit.items[-1] if answer_id(commit.items) else None
        entry.expires_at = now + self._history_ttl_s
        entry.journal_expires_at = now + JOURNAL_END_S


def _begin_again(mine: TurnEntry, begin: Begin, now: float) -> Reply:
    if mine.owner != begin.owner or not mine.is_running:
        return Reply(Verdict.EXISTS)
    mine.until = now + begin.lease_s
    return Reply(Verdict.OK, value=mine.fence)


def _held(root: RootState, line: LineState, now: float) -> Reply | None:
    """The refusal by a line's active turn. A record that is gone altogether no longer holds its line."""
    active = root.turns.get(line.active)
    if active is None:
        return None
    verdict = Verdict.BUSY if active.until > now else Verdict.EXPIRED
    return Reply(verdict, turn=line.active)
