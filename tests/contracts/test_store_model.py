"""The Redis store against the memory store: any sequence of calls, some of them sent twice, gets the same answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.conversations import redis_args
from services.conversations.keys import Keys
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.records import Item, Line, TurnRecord, TurnState
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.conversations.scripts import lines
from services.conversations.store import Reply, Tailed, Verdict
from tests.support.store_calls import DRAWS, LINES, NUM_TURNS, Draw, Scene
from tests.support.turns import TENANT

DAY_S = 86_400
OPENINGS = st.booleans()  # a conversation that somebody made, or a hidden root
SEQUENCES = st.lists(DRAWS, min_size=20, max_size=60)
LATE = st.lists(DRAWS, max_size=5)


def a_draw(kind: str, **changes: Any) -> Draw:
    """The plainest call of a kind."""
    plain = Draw(kind, 0, "a", LINES[0], 0, 60.0, 0, 1, TurnState.COMPLETED, flag=True, times=1)
    return Draw(**({name: getattr(plain, name) for name in Draw.__slots__} | changes))


class Pair:
    """One root in both stores, under the same ids."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._memory = MemoryConversationStore()
        self._redis = RedisConversationStore(link)

    async def open(self, *, is_conversation: bool) -> None:
        """Make the root: as a conversation of somebody's with one item, or by a first turn."""
        if not is_conversation:
            self._scene = Scene()
            await self.send(a_draw("begin"))
            return
        first = Item(id="msg_first", role="user", text="一", created_at=1)
        made = await self._memory.create(TENANT, metadata={}, items=[first])
        keys = Keys.of_conversation(TENANT, made.id)
        names, args = [keys.line(), keys.items(), keys.item, keys.index], redis_args.create_args({}, [first], DAY_S)
        await self._link.call(lambda redis: lines.CREATE.run(redis, names, args))
        self._scene = Scene(made.id)

    async def send(self, draw: Draw) -> None:
        """Send one call to both stores, perhaps again as after a lost reply, and compare what they say."""
        step = await self._scene.prepare(draw, self._memory)
        for _ in range(draw.times):
            in_memory, in_redis = [_timeless(await self._scene.send(store, step)) for store in self._stores]
            assert in_memory == in_redis, step

    async def compare(self) -> None:
        """All that can be read."""
        for draw in [a_draw(kind, turn=turn) for kind in ("turn", "look") for turn in range(NUM_TURNS)]:
            await self.send(draw)
        for line in LINES:
            in_memory, in_redis = [await self._scene.line(store, line) for store in self._stores]
            assert in_memory == in_redis

    @property
    def _stores(self) -> tuple[MemoryConversationStore, RedisConversationStore]:
        return self._memory, self._redis


def _timeless(answer: Any) -> Any:
    """An answer without the times that two clocks cannot agree on."""
    if isinstance(answer, Reply):
        value = 0 if answer.verdict in {Verdict.LIVE, Verdict.EXPIRED} else answer.value
        return answer.verdict, value, answer.turn, answer.cancel, answer.seen_s > 0
    if isinstance(answer, TurnRecord):
        return msgspec.structs.replace(
            answer, until_ms=int(answer.until_ms > 0), deadline_ms=int(answer.deadline_ms > 0), created_at=0, ended_at=0
        )
    if isinstance(answer, Tailed):
        return answer.state, list(answer.ids), list(answer.logprobs), answer.is_broken
    if isinstance(answer, Line):
        head = msgspec.structs.replace(answer.conversation, created_at=0)
        return msgspec.structs.replace(answer, conversation=head)
    return answer


@pytest.mark.valkey
@settings(max_examples=120)
@given(is_conversation=OPENINGS, draws=SEQUENCES, is_erased=st.booleans(), late=LATE)
async def test_both_stores_answer_every_sequence_alike(plain_valkey, is_conversation, draws, is_erased, late):
    """Two owners, four turns, a line and its branch, leases that live or have run out, erasure and late writers."""
    link = RedisLink(plain_valkey.url)
    try:
        pair = Pair(link)
        await pair.open(is_conversation=is_conversation)
        for draw in draws:
            await pair.send(draw)
        await pair.compare()
        for draw in [a_draw("delete"), *late, a_draw("delete")] if is_erased else []:
            await pair.send(draw)
        await pair.compare()
    finally:
        plain_valkey.flush()
        await link.close()
