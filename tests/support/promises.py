"""What a store promises of turns, watched from outside: it knows the calls and their answers, not how a store works.

- At most one owner may write to a turn at a time, and whoever holds its lease is not refused.
- An accepted turn ends at most once, and its record never changes after that.
- Ids are neither lost nor doubled nor reordered.
- A line holds the items of the turns committed on it, in the order of their commits, behind those it shares.
- Fences only grow.
- An erased turn never comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from services.conversations.keys import MAX_TRIES
from services.conversations.records import TurnRecord, TurnState
from services.conversations.store import Begin, Commit, ConversationStore, Note, Reply, Tailed, Verdict
from tests.support.store_calls import LINES, Scene, Step
from tests.support.turns import TENANT, journal_of


@dataclass
class Accepted:
    """A turn that was accepted, as its callers have to think of it."""

    line: str
    fence: int
    holder: str = ""  # who may write
    until: float = 0.0
    claims: int = 0
    tries: int = 0  # claims since its last new id
    ids: int = 0  # 0, 1, … are in its journal
    moves: int = 0
    is_cancelled: bool = False
    is_waiting: bool = False
    ender: str | None = None  # whose commit ended it; "" when it ended as it waited
    end: TurnRecord | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.ender is None


@dataclass
class Promises:
    """Judges each answer. ``repeats``: every command is executed twice, so that a first commit is told DONE.

    ``now`` is the store's clock in seconds, or stands still where a store has its own: leases are then 0 or long.
    """

    scene: Scene
    repeats: bool = False
    now: float = 0.0
    turns: dict[str, Accepted] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    lines: dict[str, list[str]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    fences: dict[str, int] = field(default_factory=dict)

    def heard(self, step: Step, answer: Any) -> None:
        """Judge an answer, and remember what follows from it."""
        if step.turn in self.erased and step.kind != "load":
            assert _is_refused(answer), (step, answer)
            return
        judge = getattr(self, f"_{step.kind}", None)
        if judge is not None:
            judge(step, answer)

    async def check(self, store: ConversationStore) -> None:
        """Everything that can be read is as promised."""
        for name in self.turns:
            await self.check_turn(store, name)
        for line in LINES:
            _, names = await self.scene.line(store, line)
            assert names == [name for name in self.lines.get(line, []) if name not in self.removed]

    async def check_turn(self, store: ConversationStore, name: str) -> None:
        """One turn, if it was accepted: where it stands, or that it still is what it ended as."""
        turn = self.turns.get(name)
        if turn is None:
            return
        record = await store.turn(TENANT, name)
        if turn.is_open:
            self._check_open(turn, record)
        else:
            turn.end = turn.end or record
            assert record == turn.end
        assert await journal_of(store, name) == list(range(turn.ids if turn.is_open else 0))

    def _check_open(self, turn: Accepted, record: TurnRecord) -> None:
        assert record.state is (TurnState.QUEUED if turn.is_waiting else TurnState.RUNNING)
        assert (record.fence, record.total, record.moves) == (turn.fence, turn.ids, turn.moves)
        assert (record.claims, record.is_cancelled) == (turn.claims, turn.is_cancelled)
        assert bool(record.until_ms) == bool(turn.holder)
        assert record.owner == turn.holder or not turn.holder

    def _begin(self, step: Step, reply: Reply) -> None:
        begin, turn = step.request, self.turns.get(step.turn)
        holder = self._open_on(begin.line)
        if reply.verdict in {Verdict.BUSY, Verdict.EXPIRED}:
            assert turn is None
            assert reply.turn == holder
            over = self.turns[holder]
            is_claimable = not over.is_waiting and over.until <= self.now
            assert is_claimable == (reply.verdict is Verdict.EXPIRED)
        elif reply.verdict is Verdict.EXISTS:
            assert turn is not None
        elif reply.verdict is Verdict.OK and turn is None:
            assert holder == ""
            self._accept(step.turn, begin, reply.value)
        elif reply.verdict is Verdict.OK:
            assert turn is not None
            assert turn.is_open
            assert reply.value == turn.fence
            if not turn.is_waiting:
                assert turn.holder == begin.owner
                self._hold(turn, begin.owner, begin.lease_s)

    def _accept(self, name: str, begin: Begin, fence: int) -> None:
        is_waiting = begin.state is TurnState.QUEUED
        turn = self.turns[name] = Accepted(begin.line, fence, is_waiting=is_waiting)
        self._raise_fence(begin.line, fence)
        if not is_waiting:
            self._hold(turn, begin.owner, begin.lease_s)
        if begin.line not in self.lines:
            left = self.lines.get(begin.fork.line, []) if begin.fork else []
            shared = left.index(begin.fork.last) + 1 if begin.fork and begin.fork.last else 0
            self.lines[begin.line] = left[:shared]

    def _claim(self, step: Step, reply: Reply) -> None:
        turn = self.turns.get(step.turn)
        if turn is None or not turn.is_open:
            assert reply.verdict is (Verdict.ABSENT if turn is None else Verdict.TERMINAL)
            return
        if turn.holder != step.owner and turn.until > self.now:
            assert reply.verdict is Verdict.LIVE
            return
        if turn.holder != step.owner:
            turn.claims += 1
            turn.tries += 1
            turn.fence = self._raise_fence(turn.line, self.fences[turn.line] + 1)
        assert reply == Reply(Verdict.POISON if turn.tries > MAX_TRIES else Verdict.OK, value=turn.ids)
        turn.is_waiting = False
        self._hold(turn, step.owner, step.lease_s)

    def _release(self, step: Step, reply: Reply) -> None:
        turn = self.turns.get(step.turn)
        if turn is None or turn.holder != step.owner:
            assert reply.verdict is not Verdict.OK or turn.holder == ""
            return
        assert reply.verdict is Verdict.OK
        turn.holder, turn.until, turn.is_waiting = "", 0.0, step.flag
        turn.claims, turn.tries = max(turn.claims - 1, 0), max(turn.tries - 1, 0)

    def _note(self, step: Step, reply: Reply) -> None:
        note: Note = step.request
        turn = self.turns.get(step.turn)
        if turn is None or turn.holder != note.owner:
            assert reply.verdict is (Verdict.ABSENT if turn is None else Verdict.LOST)
            return
        self._hold(turn, note.owner, note.lease_s)
        turn.moves = max(turn.moves, note.moves)
        assert reply.cancel == turn.is_cancelled
        if note.start > turn.ids:
            assert (reply.verdict, reply.value) == (Verdict.GAP, turn.ids)
            return
        if note.start + len(note.ids) > turn.ids:
            turn.ids, turn.tries = note.start + len(note.ids), 0
        assert (reply.verdict, reply.value) == (Verdict.OK, turn.ids)

    def _commit(self, step: Step, reply: Reply) -> None:
        commit: Commit = step.request
        turn = self.turns.get(step.turn)
        if turn is not None and not turn.is_open:
            assert reply.verdict is (Verdict.DONE if turn.ender == commit.owner else Verdict.LOST)
            return
        if turn is None or turn.holder != commit.owner:
            assert reply.verdict is (Verdict.ABSENT if turn is None else Verdict.LOST)
            return
        if reply.verdict is Verdict.LOST:  # the line has moved on
            return
        assert reply.verdict is (Verdict.DONE if self.repeats else Verdict.OK)
        assert self._open_on(turn.line) == step.turn
        turn.holder, turn.until, turn.ender = "", 0.0, commit.owner
        self.lines[turn.line] += [item.id for item in commit.items]

    def _cancel(self, step: Step, answer: TurnState | str) -> None:
        turn = self.turns.get(step.turn)
        if turn is None:
            assert isinstance(answer, str)
        elif turn.is_open and turn.is_waiting and not turn.ids:
            assert answer is TurnState.CANCELLED
            turn.is_waiting, turn.ender = False, ""
        elif turn.is_open:
            assert answer is (TurnState.QUEUED if turn.is_waiting else TurnState.RUNNING)
            turn.is_cancelled = True

    def _look(self, step: Step, found: Any) -> None:
        turn = self.turns.get(step.turn)
        if turn is None or not turn.is_open:
            assert list(found.ids) == []
            return
        assert list(found.ids) == list(range(turn.ids))
        assert list(found.logprobs) == self.scene.own_logprobs(step.turn, 0, turn.ids)

    def _delete_turn(self, step: Step, answer: str | None) -> None:
        turn = self.turns.pop(step.turn, None)
        if turn is None:
            assert isinstance(answer, str)
            return
        assert answer is None
        self.erased.add(step.turn)
        own = {item.id for item in self.scene.own_items(step.turn)}
        self.removed |= own
        self.lines[turn.line] = [name for name in self.lines[turn.line] if name not in own]
        if not self.turns:
            self.erased |= set(self.scene.turns)
            self.lines.clear()

    def _hold(self, turn: Accepted, holder: str, lease_s: float) -> None:
        turn.holder, turn.until = holder, self.now + lease_s

    def _open_on(self, line: str) -> str:
        """The turn that holds a line; there is never a second one."""
        held = [name for name, turn in self.turns.items() if turn.line == line and turn.is_open]
        assert len(held) <= 1
        return held[0] if held else ""

    def _raise_fence(self, line: str, fence: int) -> int:
        assert fence > self.fences.get(line, 0)
        self.fences[line] = fence
        return fence


def _is_refused(answer: Any) -> bool:
    if isinstance(answer, Tailed):
        return answer.state is None
    return answer.verdict is Verdict.GONE if isinstance(answer, Reply) else isinstance(answer, str)
