"""Changes of items and turns in any order: both stores answer alike, and a plain list says what the line must hold."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import CallerError
from services.conversations import ids
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import Conversation, Item
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Verdict
from tests.support.lossy import LossyRedis
from tests.support.turns import TENANT, a_begin, a_commit, some_items

MAX_ITEMS = 8
PLACES = st.integers(0, MAX_ITEMS)  # among all items that were ever there, deleted ones too
CALLS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("delete"), PLACES),
    st.tuples(st.just("item"), PLACES),
    st.tuples(st.just("page"), st.one_of(st.none(), PLACES), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("metadata"), st.sampled_from("ab")),
    st.tuples(st.just("begin")),
    st.tuples(st.just("commit")),
)


class Trio:
    """Memory, Redis (every reply lost once, or none) and a list, over one conversation under the same ids."""

    def __init__(self, redis_store: RedisConversationStore) -> None:
        self.stores = (MemoryConversationStore(max_items=MAX_ITEMS), redis_store)
        self.conversation = ids.new_conversation()
        self.line: list[str] = []
        self.all: list[str] = []
        self.version = 0
        self.active = ""

    async def start(self) -> None:
        """Make the conversation, under one id."""
        with patch.object(ids, "new_conversation", lambda: self.conversation):
            for store in self.stores:
                await store.create(TENANT, metadata={})

    async def send(self, call: tuple[Any, ...]) -> None:
        """One call to both stores, compared, and its effect on the list."""
        await getattr(self, f"_{call[0]}")(*call[1:])
        for store in self.stores:
            line = await store.load(TENANT, self.conversation)
            assert [item.id for item in line.items] == self.line
            assert (line.version, line.active) == (self.version, self.active)

    async def _append(self, number):
        items = [Item(id=ids.new_item(self.conversation), role="user", text="x", created_at=1) for _ in range(number)]
        answer = await self._alike(lambda store: store.append_items(TENANT, self.conversation, items))
        fits = len(self.line) + number <= MAX_ITEMS
        assert (answer == items) is (fits and not self.active)
        if answer == items:
            self._appended(items)

    async def _delete(self, place):
        name = self._named(place)
        answer = await self._alike(lambda store: store.delete_item(TENANT, self.conversation, name))
        if name not in self.line or self.active:
            assert isinstance(answer, str)
            return
        self.line.remove(name)
        self.version += 1

    async def _item(self, place):
        name = self._named(place)
        answer = await self._alike(lambda store: store.item(TENANT, self.conversation, name))
        assert isinstance(answer, Item) is (name in self.line)

    async def _page(self, place, limit, descending):
        after = None if place is None else self._named(place)
        answer = await self._alike(
            lambda store: store.items(TENANT, self.conversation, after=after, limit=limit, descending=descending)
        )
        ordered = self.line[::-1] if descending else self.line
        if after and after not in ordered:
            assert isinstance(answer, str)
            return
        rest = ordered[ordered.index(after) + 1 :] if after else ordered
        assert ([item.id for item in answer.items], answer.has_more) == (rest[:limit], len(rest) > limit)

    async def _metadata(self, value):
        await self._alike(lambda store: store.set_metadata(TENANT, self.conversation, {"k": value}))

    async def _begin(self):
        turn = ids.new_response(self.conversation)
        begin = a_begin(turn, base_version=self.version)
        answer = await self._alike(lambda store: store.begin(begin))
        assert (answer.verdict is Verdict.OK) is not bool(self.active)
        self.active = self.active or turn

    async def _commit(self):
        if not self.active:
            return
        items = some_items(self.active)
        commit = a_commit(self.active, base_version=self.version, items=items)
        for store in self.stores:
            assert (await store.commit(commit)).verdict in {Verdict.OK, Verdict.DONE}
        self.active = ""
        self._appended(items)

    def _named(self, place):
        return self.all[place] if place < len(self.all) else ids.new_item(self.conversation)

    def _appended(self, items):
        self.line += [item.id for item in items]
        self.all += [item.id for item in items]
        self.version += 1

    async def _alike(self, call):
        in_memory, in_redis = [await _answer(call, store) for store in self.stores]
        assert in_memory == in_redis
        return in_redis


async def _answer(call, store):
    try:
        answer = await call(store)
    except CallerError as error:
        return str(error)
    return msgspec.structs.replace(answer, created_at=0) if isinstance(answer, Conversation) else answer


@pytest.mark.valkey
@settings(max_examples=60)
@given(calls=st.lists(CALLS, min_size=8, max_size=30), loses_replies=st.booleans())
async def test_items_and_turns_in_any_order(plain_valkey, calls, loses_replies):
    """Versions, places, limits, pages and refusals agree, with each reply lost once or none."""
    source = LossyRedis.from_url(plain_valkey.url) if loses_replies else plain_valkey.url
    redis_store = RedisConversationStore(source, max_items=MAX_ITEMS)
    try:
        trio = Trio(redis_store)
        await trio.start()
        for call in calls:
            await trio.send(call)
    finally:
        plain_valkey.flush()
        await redis_store.close()
