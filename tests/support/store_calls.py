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
from services.conversations import ids
from services.conversations.keys import MAIN_LINE
from services.conversations.records import TurnState
from services.conversations.store import Begin, Commit, ConversationStore, Fork, Note, Reply, Tail, Tailed
from tests.support.turns import TENANT, a_begin, a_commit, a_note, journal_of, some_items, some_logprobs

LINES = (MAIN_LINE, "branch")
NUM_TURNS = 4
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
    "load": lambda store, step: store.load(TENANT, ids.conversation_of(step.turn), line=step.line, newest=3),
    "delete_turn": lambda store, step: store.delete_turn(TENANT, step.turn),
    "delete": lambda store, step: store.delete(TENANT, ids.conversation_of(step.turn)),
}


@dataclass(frozen=True, slots=True)
class Draw:
    """One call; each kind uses some of the rest. ``times`` 2 is a call sent again after a lost reply."""

    kind: str
    turn: int
    owner: str
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
    kind=st.sampled_from(KINDS * 2 + RARE),
    turn=st.sampled_from([0, 0, 0, 0, 1, 1, 1, 2, 3]),
    owner=st.sampled_from(["a", "a", "a", "b"]),
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
        self.items = [some_items(turn) for turn in self.turns]

    async def prepare(self, draw: Draw, store: ConversationStore) -> Step:
        """Aim a call at where the store stands."""
        turn = self.turns[draw.turn]
        step = Step(draw.kind, turn, draw.owner, draw.line, draw.lease_s, draw.flag)
        makers = {"begin": self._begin, "note": self._note, "commit": self._commit}
        maker = makers.get(draw.kind)
        return replace(step, request=await maker(draw, turn, store)) if maker else step

    async def line(self, store: ConversationStore, name: str) -> tuple[int, list[str]]:
        """Version and item ids of a line; 0 and none without it."""
        try:
            line = await store.load(TENANT, self.conversation, line=name)
        except NotFoundError:
            return 0, []
        return line.version, [item.id for item in line.items]

    async def send(self, store: ConversationStore, step: Step) -> Any:
        """Send a call; what could not be found is answered in words."""
        try:
            return await _SENDERS[step.kind](store, step)
        except NotFoundError as error:
            return str(error)

    async def _begin(self, draw: Draw, turn: str, store: ConversationStore) -> Begin:
        version, _ = await self.line(store, draw.line)
        other = LINES[1 - LINES.index(draw.line)]
        _, left = await self.line(store, other)
        last = left[draw.start] if -len(left) <= draw.start < 0 else "" if draw.start else "msg_unknown"
        return a_begin(
            turn,
            owner=draw.owner,
            line=draw.line,
            base_version=version + draw.drift,
            lease_s=draw.lease_s,
            new_line=draw.flag,
            fork=Fork(other, last) if draw.line != MAIN_LINE else None,
            state=TurnState.QUEUED if draw.count == 0 else TurnState.RUNNING,
        )

    async def _note(self, draw: Draw, turn: str, store: ConversationStore) -> Note:
        start = max(len(await journal_of(store, turn)) + draw.start, 0)
        end = start + draw.count
        logprobs = some_logprobs(end, num_best=2)[start:] if draw.turn % 2 else []
        changes = {"owner": draw.owner, "lease_s": draw.lease_s, "logprobs": logprobs, "moves": draw.count}
        return a_note(turn, start, list(range(start, end)), **changes)

    async def _commit(self, draw: Draw, turn: str, store: ConversationStore) -> Commit:
        line = await self._line_of(turn, store)
        version, _ = await self.line(store, line)
        held = await journal_of(store, turn)
        question, answer = self.items[draw.turn]
        answer = msgspec.structs.replace(answer, ids=held[: len(held) - draw.flag])
        return a_commit(
            turn,
            owner=draw.owner,
            line=line,
            state=draw.end,
            base_version=version + draw.drift,
            items=[] if draw.end is TurnState.FAILED or draw.count == 0 else [question, answer],
            ids=held,
            logprobs=some_logprobs(len(held), num_best=2) if draw.turn % 2 else [],
        )

    async def _line_of(self, turn: str, store: ConversationStore) -> str:
        try:
            return (await store.turn(TENANT, turn)).line
        except NotFoundError:
            return MAIN_LINE
