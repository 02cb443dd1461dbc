"""The Redis store against the memory store: any sequence of calls, some of them sent twice, gets the same answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import NotFoundError
from services.conversations import ids
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import Line, TurnRecord, TurnState
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Reply, Verdict
from tests.support.turns import TENANT, a_begin, a_commit, a_note, some_items

OWNERS = st.sampled_from(["a", "b"])
TURNS = st.integers(0, 2)
LEASES = st.sampled_from([0.0, 60.0])  # run out at once, or live until the end
ENDS = st.sampled_from([TurnState.COMPLETED, TurnState.INCOMPLETE, TurnState.CANCELLED, TurnState.FAILED])

BEGINS = st.tuples(st.just("begin"), TURNS, OWNERS, st.integers(0, 2), LEASES, st.booleans())
CLAIMS = st.tuples(st.just("claim"), TURNS, OWNERS, LEASES)
RANGES = st.tuples(st.integers(0, 4), st.integers(0, 4))  # first id, how many
NOTES = st.tuples(st.just("note"), TURNS, OWNERS, RANGES, LEASES)
COMMITS = st.tuples(st.just("commit"), TURNS, OWNERS, ENDS, st.integers(0, 2))
READS = st.tuples(st.sampled_from(["turn", "journal"]), TURNS)
LINES = st.tuples(st.sampled_from(["load", "items"]))
CALLS = st.one_of(BEGINS, BEGINS, CLAIMS, NOTES, NOTES, COMMITS, COMMITS, READS, LINES)
OPENING = st.just(("begin", 0, "a", 0, 60.0, True))
SEQUENCES = st.tuples(
    OPENING, st.lists(st.tuples(CALLS, st.integers(1, 2)), max_size=30), st.booleans(), st.lists(CALLS, max_size=5)
)


class Pair:
    """One conversation in both stores, under the same ids."""

    def __init__(self, redis_store: RedisConversationStore) -> None:
        self.stores = (MemoryConversationStore(), redis_store)
        self.conversation = ids.new_conversation()
        self.turns = [ids.new_response(self.conversation) for _ in range(3)]
        self.items = [some_items(turn) for turn in self.turns]
        self.appended: list[str] = []

    async def send(self, call: tuple[Any, ...]) -> None:
        """Send one call to both stores and compare what they say."""
        in_memory, in_redis = [await self._answer(store, *call) for store in self.stores]
        assert in_memory == in_redis, call
        if call[0] == "commit" and in_redis.verdict is Verdict.OK and call[3] is not TurnState.FAILED:
            self.appended += [item.id for item in self.items[call[1]]]

    async def check_line(self) -> None:
        """The line holds what successful commits appended, once each and in order."""
        for store in self.stores:
            line = await store.load(TENANT, self.conversation)
            assert [item.id for item in line.items] == self.appended

    async def _answer(self, store: Any, kind: str, *args: Any) -> Any:
        try:
            return _timeless(await getattr(self, f"_{kind}")(store, *args))
        except NotFoundError as error:
            return str(error)

    async def _begin(self, store, number, *args):
        changes = dict(zip(("owner", "base_version", "lease_s", "new_line"), args, strict=True))
        return await store.begin(a_begin(self.turns[number], **changes))

    async def _claim(self, store, number, owner, lease_s):
        return await store.claim(TENANT, self.turns[number], owner=owner, lease_s=lease_s)

    async def _note(self, store, number, owner, ids_range, lease_s):
        start, count = ids_range
        new = list(range(start, start + count))  # an id is its own index, so a hole or a double shows
        return (await store.note([a_note(self.turns[number], start, new, owner=owner, lease_s=lease_s)]))[0]

    async def _commit(self, store, number, owner, state, version):
        items = [] if state is TurnState.FAILED else self.items[number]
        changes = {"owner": owner, "state": state, "base_version": version, "items": items}
        return await store.commit(a_commit(self.turns[number], **changes))

    async def _turn(self, store, number):
        return await store.turn(TENANT, self.turns[number])

    async def _journal(self, store, number):
        journal = await store.journal(TENANT, self.turns[number])
        assert journal == list(range(len(journal)))
        return journal

    async def _load(self, store):
        return await store.load(TENANT, self.conversation, newest=3)

    async def _items(self, store):
        return await store.items(TENANT, self.conversation, after=None, limit=3, descending=True)

    async def _delete(self, store):
        return await store.delete(TENANT, self.conversation)


def _timeless(answer: Any) -> Any:
    """An answer without the times that two clocks cannot agree on."""
    if isinstance(answer, Reply) and answer.verdict is Verdict.LIVE:
        return answer.verdict
    if isinstance(answer, TurnRecord):
        return msgspec.structs.replace(answer, until_ms=int(answer.until_ms > 0), created_at=0)
    if isinstance(answer, Line):
        head = msgspec.structs.replace(answer.conversation, created_at=0)
        return msgspec.structs.replace(answer, conversation=head)
    return answer


@pytest.mark.valkey
@settings(max_examples=100, deadline=None)
@given(sequence=SEQUENCES)
async def test_both_stores_answer_every_sequence_alike(plain_valkey, sequence):
    """Two owners, three turns, leases that live or have run out, repeated calls, erasure and late writers."""
    opening, calls, is_erased, late = sequence
    redis_store = RedisConversationStore(plain_valkey.url)
    try:
        pair = Pair(redis_store)
        await pair.send(opening)
        for call, times in calls:
            for _ in range(times):
                await pair.send(call)
        await pair.check_line()
        for call in [("delete",), *late, ("delete",)] if is_erased else []:
            await pair.send(call)
    finally:
        await redis_store.close()
