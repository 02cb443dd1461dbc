"""The Redis store against the memory store: any sequence of calls, some of them sent twice, gets the same answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import NotFoundError
from services.conversations import ids
from services.conversations.keys import MAIN_LINE
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import Line, TurnRecord, TurnState
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Part, Reply, Verdict
from tests.support.turns import TENANT, a_begin, a_commit, a_note, journal_of, some_items

OWNERS = st.sampled_from(["a", "a", "a", "b"])
TURNS = st.sampled_from([0, 0, 1, 2])
DRIFTS = st.sampled_from([0, 0, 0, 1])  # how far a caller's version is from the line's
LEASES = st.sampled_from([0.0, 60.0])  # run out at once, or live until the end
ENDS = st.sampled_from([TurnState.COMPLETED, TurnState.INCOMPLETE, TurnState.CANCELLED, TurnState.FAILED])

BEGINS = st.tuples(st.just("begin"), TURNS, OWNERS, DRIFTS, LEASES, st.booleans())
CLAIMS = st.tuples(st.just("claim"), TURNS, OWNERS, LEASES)
RANGES = st.tuples(st.integers(-2, 1), st.integers(0, 4))  # first id, counted from the journal's end; how many
NOTES = st.tuples(st.just("note"), TURNS, OWNERS, RANGES, LEASES)
COMMITS = st.tuples(st.just("commit"), TURNS, OWNERS, ENDS, DRIFTS, st.booleans())
READS = st.tuples(st.sampled_from(["turn", "journal"]), TURNS)
LINES = st.tuples(st.sampled_from(["load", "items"]))
CALLS = st.one_of(BEGINS, BEGINS, CLAIMS, NOTES, NOTES, COMMITS, COMMITS, READS, LINES)
OPENING = st.just(("begin", 0, "a", 0, 60.0, True))
SEQUENCES = st.tuples(
    OPENING,
    st.lists(st.tuples(CALLS, st.integers(1, 2)), min_size=12, max_size=40),
    st.booleans(),
    st.lists(CALLS, max_size=5),
)


class Pair:
    """One conversation in both stores, under the same ids."""

    def __init__(self, redis_store: RedisConversationStore) -> None:
        self.stores = (MemoryConversationStore(), redis_store)
        self.conversation = ids.new_conversation()
        self.turns = [ids.new_response(self.conversation) for _ in range(3)]
        self.items = [some_items(turn) for turn in self.turns]
        self.appended: list[str] = []

    async def send(self, call: tuple[Any, ...], *, times: int = 1) -> None:
        """Send one call to both stores, perhaps again as after a lost reply, and compare what they say."""
        prepared = getattr(self, f"_{call[0]}")(*call[1:], **await self._position(call))
        for _ in range(times):
            in_memory, in_redis = [await _answer(store, prepared) for store in self.stores]
            assert in_memory == in_redis, call
            if call[0] == "commit" and in_redis.verdict is Verdict.OK:
                self.appended += [item.id for item in self._committed(*call[1:])]

    async def check_line(self) -> None:
        """The line holds what successful commits appended, once each and in order."""
        for store in self.stores:
            line = await store.load(TENANT, self.conversation, Part(MAIN_LINE))
            assert [item.id for item in line.items] == self.appended

    async def _position(self, call: tuple[Any, ...]) -> dict[str, int]:
        """Where the line's version and the turn's journal stand: most calls should come close to them."""
        try:
            if call[0] in {"begin", "commit"}:
                return {"at": (await self.stores[0].load(TENANT, self.conversation, Part(MAIN_LINE))).version}
            if call[0] == "note":
                return {"at": len(await journal_of(self.stores[0], self.turns[call[1]]))}
        except NotFoundError:
            return {"at": 0}
        return {}

    def _committed(self, number, owner, state, drift, has_items):
        return self.items[number] if has_items and state is not TurnState.FAILED else []

    def _begin(self, number, owner, drift, lease_s, new_line, *, at):
        changes = {"owner": owner, "base_version": at + drift, "lease_s": lease_s, "new_line": new_line}
        begin = a_begin(self.turns[number], **changes)
        return lambda store: store.begin(begin)

    def _claim(self, number, owner, lease_s):
        return lambda store: store.claim(TENANT, self.turns[number], owner=owner, lease_s=lease_s)

    def _note(self, number, owner, span, lease_s, *, at):
        start = max(at + span[0], 0)
        new = list(range(start, start + span[1]))  # an id is its own index, so a hole or a double shows
        note = a_note(self.turns[number], start, new, owner=owner, lease_s=lease_s)
        return lambda store: store.note([note])

    def _commit(self, number, owner, state, drift, has_items, *, at):
        items = self._committed(number, owner, state, drift, has_items)
        changes = {"owner": owner, "state": state, "base_version": at + drift, "items": items}
        commit = a_commit(self.turns[number], **changes)
        return lambda store: store.commit(commit)

    def _turn(self, number):
        return lambda store: store.turn(TENANT, self.turns[number])

    def _journal(self, number):
        async def read(store):
            held = await journal_of(store, self.turns[number])
            assert held == list(range(len(held)))
            return held

        return read

    def _load(self):
        return lambda store: store.load(TENANT, self.conversation, Part(MAIN_LINE, newest=3))

    def _items(self):
        return lambda store: store.items(TENANT, self.conversation, after=None, limit=3, descending=True)

    def _delete(self):
        return lambda store: store.delete(TENANT, self.conversation)


async def _answer(store: Any, prepared: Any) -> Any:
    try:
        return _timeless(await prepared(store))
    except NotFoundError as error:
        return str(error)


def _timeless(answer: Any) -> Any:
    """An answer without the times that two clocks cannot agree on."""
    if isinstance(answer, Reply) and answer.verdict in {Verdict.LIVE, Verdict.EXPIRED}:
        return answer.verdict, answer.turn
    if isinstance(answer, TurnRecord):
        return msgspec.structs.replace(answer, until_ms=int(answer.until_ms > 0), created_at=0, ended_at=0)
    if isinstance(answer, Line):
        head = msgspec.structs.replace(answer.conversation, created_at=0)
        return msgspec.structs.replace(answer, conversation=head)
    return answer


@pytest.mark.valkey
@settings(max_examples=80)
@given(sequence=SEQUENCES)
async def test_both_stores_answer_every_sequence_alike(plain_valkey, sequence):
    """Two owners, three turns, leases that live or have run out, repeated calls, erasure and late writers."""
    opening, calls, is_erased, late = sequence
    redis_store = RedisConversationStore(plain_valkey.url)
    try:
        pair = Pair(redis_store)
        await pair.send(opening)
        for call, times in calls:
            await pair.send(call, times=times)
        await pair.check_line()
        for call in [(kind, number) for kind in ("turn", "journal") for number in range(3)]:
            await pair.send(call)
        for call in [("delete",), *late, ("delete",)] if is_erased else []:
            await pair.send(call)
    finally:
        await redis_store.close()
