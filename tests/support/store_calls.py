"""Any call that a store can be sent, as Hypothesis draws it: most come close to where the store stands.

An id is its own index in its turn's journal, so a hole or a double shows. Turns of odd number have log probabilities.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from hypothesis import strategies as st

from cluster.errors import NotFoundError
from cluster.protocol import Logprobs
from services.conversations import ids
from services.conversations.keys import MAIN_LINE
from services.conversations.records import Item, TurnState
from services.conversations.store import Begin, Commit, ConversationStore, Fork, Note, Part, Reply, Tail, Tailed
from tests.support.turns import TENANT, a_begin, a_commit, a_note, journal_of, some_items, some_logprobs

LINES = (MAIN_LINE, "branch")
NUM_TURNS = 12
KINDS = ["begin"] * 4 + ["note"] * 4 + ["commit"] * 3 + ["claim"] * 3 + ["release", "cancel", "look"]
RARE = ["turn", "load", "delete_turn"]


async def _note(store: ConversationStore, step: Step) -> Reply:
    return (await store.note([step.request]))[0]


async def _look(store: ConversationStore, step: Step) -> Tailed:
    return (await store.tail([Tail(TENANT, step.turn, watch_s=600.0 * step.flag)]))[0]


_SENDERS: dict[str, Callable[[ConversationStore, Step], Awaitable[Any]]] = {
    "begin": lambda store, step: store.begin(step.request),
    "note": _note,
    "commit": lambda store, step: store.commit(step.request),
    "claim": lambda store, step: store.claim(TENANT, step.turn, owner=step.owner, lease_s=step.lease_s),
    "release": lambda store, step: store.release(TENANT, step.turn, owner=step.owner, is_queued=step.flag),
    "cancel": lambda store, step: store.cancel(TENANT, step.turn),
    "look": _look,
    "turn": lambda store, step: store.turn(TENANT, step.turn),
    "load": lambda store, step: store.load(TENANT, ids.conversation_of(step.turn), Part(step.line, newest=3)),
    "delete_turn": lambda store, step: store.delete_turn(TENANT, step.turn),
    "delete": lambda store, step: store.delete(TENANT, ids.conversation_of(step.turn)),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """One call; each kind uses some of the rest. ``times`` 2 is a call sent again after a lost reply."""

    kind: str
    turn: int  # -1: the line's active one, or the next
    owner: str  # "": who owns the turn
    line: str
    drift: int  # from the line's version
    lease_s: float
    start: int  # of a note, from the journal's end; of a branch, from the line's end
    count: int
    end: TurnState
    flag: bool
    times: int


DRAWS = st.builds(
    Draw,
    kind=st.sampled_from(KINDS * 4 + RARE),
    turn=st.sampled_from([-1] * 8 + [0, 1, 2, 3]),
    owner=st.sampled_from(["", "", "", "a", "b"]),
    line=st.sampled_from([MAIN_LINE, MAIN_LINE, LINES[1]]),
    drift=st.sampled_from([0] * 7 + [1]),
    lease_s=st.sampled_from([0.0, 60.0]),  # run out at once, or live until a clock moves
    start=st.integers(-2, 1),
    count=st.integers(0, 4),
    end=st.sampled_from([TurnState.COMPLETED, TurnState.INCOMPLETE, TurnState.CANCELLED, TurnState.FAILED]),
    flag=st.booleans(),
    times=st.integers(1, 2),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A call ready to be sent. ``request`` is there for those kinds that have one."""

    kind: str
    turn: str
    owner: str
    line: str
    lease_s: float
    flag: bool
    request: Any = None


class Scene:
    """A root, its turns and what each of them would append."""

    def __init__(self, conversation: str = "") -> None:
        self.conversation = conversation or ids.new_conversation()
        self.turns = [ids.new_response(self.conversation) for _ in range(NUM_TURNS)]
        self._next = 0
        self._items = [some_items(turn) for turn in self.turns]

    async def prepare(self, draw: Draw, store: ConversationStore) -> Step:
        """Aim a call at where the store stands."""
        turn = await self._turn(draw, store)
        owner, line = await self._owner_and_line(draw, turn, store)
        step = Step(draw.kind, turn, owner, draw.line, draw.lease_s, draw.flag)
        if draw.kind == "begin":
            return replace(step, request=await self._begin(draw, step, store))
        if draw.kind == "note":
            return replace(step, request=await self._note(draw, step, store))
        if draw.kind == "commit":
            return replace(step, request=await self._commit(draw, replace(step, line=line), store))
        return step

    async def line(self, store: ConversationStore, name: str) -> tuple[int, list[str]]:
        """Version and item ids of a line; 0 and none without it."""
        try:
            line = await store.load(TENANT, self.conversation, Part(name))
        except NotFoundError:
            return 0, []
        return line.version, [item.id for item in line.items]

    async def send(self, store: ConversationStore, step: Step) -> Any:
        """Send a call; what could not be found is answered in words."""
        try:
            return await _SENDERS[step.kind](store, step)
        except NotFoundError as error:
            return str(error)

    def own_items(self, turn: str) -> list[Item]:
        """What a turn would append."""
        return self._items[self.turns.index(turn)]

    def own_logprobs(self, turn: str, start: int, end: int) -> list[Logprobs]:
        """Those of a turn's ids from ``start`` to ``end``; none for a turn of even number."""
        return some_logprobs(end, num_best=2)[start:] if self.turns.index(turn) % 2 else []

    async def _begin(self, draw: Draw, step: Step, store: ConversationStore) -> Begin:
        version, _ = await self.line(store, draw.line)
        other = LINES[1 - LINES.index(draw.line)]
        _, left = await self.line(store, other)
        last = left[draw.start] if -len(left) <= draw.start < 0 else "" if draw.start else "msg_unknown"
        return a_begin(
            step.turn,
            owner=step.owner,
            line=draw.line,
            base_version=version + draw.drift,
            lease_s=draw.lease_s,
            new_line=draw.flag,
            fork=Fork(other, last) if draw.line != MAIN_LINE else None,
            state=TurnState.QUEUED if draw.count == 0 else TurnState.RUNNING,
        )

    async def _note(self, draw: Draw, step: Step, store: ConversationStore) -> Note:
        start = max(len(await journal_of(store, step.turn)) + draw.start, 0)
        end = start + draw.count
        return a_note(
            step.turn,
            start,
            list(range(start, end)),
            owner=step.owner,
            lease_s=draw.lease_s,
            logprobs=self.own_logprobs(step.turn, start, end),
            moves=draw.count,
        )

    async def _commit(self, draw: Draw, step: Step, store: ConversationStore) -> Commit:
        version, _ = await self.line(store, step.line)
        held = await journal_of(store, step.turn)
        question, answer = self.own_items(step.turn)
        answer = msgspec.structs.replace(answer, ids=held[: len(held) - draw.flag])
        return a_commit(
            step.turn,
            owner=step.owner,
            line=step.line,
            state=draw.end,
            base_version=version + draw.drift,
            items=[] if draw.end is TurnState.FAILED or draw.count == 0 else [question, answer],
            ids=held,
            logprobs=self.own_logprobs(step.turn, 0, len(held)),
        )

    async def _turn(self, draw: Draw, store: ConversationStore) -> str:
        if draw.turn >= 0:
            return self.turns[draw.turn]
        try:
            active = (await store.load(TENANT, self.conversation, Part(draw.line))).active
        except NotFoundError:
            active = ""
        if not active and draw.kind == "begin":
            self._next = min(self._next + 1, NUM_TURNS - 1)
        return active or self.turns[self._next]

    async def _owner_and_line(self, draw: Draw, turn: str, store: ConversationStore) -> tuple[str, str]:
        try:
            record = await store.turn(TENANT, turn)
        except NotFoundError:
            return draw.owner or "a", MAIN_LINE
        return draw.owner or record.owner or "a", record.line
