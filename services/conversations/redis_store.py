"""Conversations and turns in Redis or Valkey: the ConversationStore that outlives its process.

Every write is one script on one slot. A repeated call gets the answer of the first: the library sends a command again
when the reply was lost, so ``begin`` by the same owner is OK twice, and ``commit`` OK, then DONE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from cluster.errors import NotFoundError
from services.conversations import codec, ids, redis_calls
from services.conversations.checks import check_begin, check_commit
from services.conversations.items import name_items
from services.conversations.keys import HISTORY_TTL_S, Keys
from services.conversations.records import Conversation, Item, Line, TurnRecord
from services.conversations.redis_link import RedisLink
from services.conversations.scripts import Arg, lines, turns
from services.conversations.store import Begin, Commit, ItemPage, Note, Reply


class RedisConversationStore:
    """See ``ConversationStore``. Any number of processes may use one server.

    Args:
        source: a URL, a client, or a link shared with other stores (which then stays open on ``close``).
        history_ttl_s: seconds a conversation lives after its last turn.
    """

    def __init__(self, source: str | Redis | RedisLink, *, history_ttl_s: int = HISTORY_TTL_S) -> None:
        self._owns_link = not isinstance(source, RedisLink)
        self._link = source if isinstance(source, RedisLink) else RedisLink(source)
        self._history_ttl_s = history_ttl_s

    async def create(self, tenant: str, *, metadata: Mapping[str, str], items: Sequence[Item] = ()) -> Conversation:
        """Make a conversation; item ids are assigned here when empty."""
        name = ids.new_conversation()
        keys = Keys.of_conversation(tenant, name)
        args = redis_calls.create_args(metadata, name_items(items, name), self._history_ttl_s)
        names = [keys.line, keys.items, keys.item, keys.index]
        created = await self._link.call(lambda redis: lines.CREATE.run(redis, names, args))
        return Conversation(id=name, created_at=created, metadata=dict(metadata))

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        """Raises NotFoundError."""
        keys = Keys.of_conversation(tenant, conversation)
        created, meta = await self._link.call(lambda redis: redis_calls.read_head(redis, keys))
        if created is None or meta is None:
            raise NotFoundError("conversation", conversation)
        return codec.decode_conversation(conversation, created, meta)

    async def load(self, tenant: str, conversation: str, *, newest: int = 0) -> Line:
        """The line with its newest items (0: all). Raises NotFoundError."""
        keys = Keys.of_conversation(tenant, conversation)
        names = [keys.line, keys.items, keys.item]
        reply = await self._link.call(lambda redis: lines.LOAD.run(redis, names, [newest]))
        if not reply:
            raise NotFoundError("conversation", conversation)
        return codec.decode_line(conversation, reply)

    async def items(
        self, tenant: str, conversation: str, *, after: str | None, limit: int, descending: bool
    ) -> ItemPage:
        """Raises NotFoundError, for an unknown ``after`` too."""
        keys = Keys.of_conversation(tenant, conversation)
        names = [keys.line, keys.items, keys.item]
        args: list[Arg] = [after or "", limit, int(descending)]
        outcome, *rest = await self._link.call(lambda redis: lines.PAGE.run(redis, names, args))
        if outcome == b"absent":
            raise NotFoundError("conversation", conversation)
        if outcome == b"unknown":
            raise NotFoundError("item", str(after))
        more, *blobs = rest
        return ItemPage(items=[codec.decode_item(blob) for blob in blobs], has_more=bool(more))

    async def delete(self, tenant: str, conversation: str) -> None:
        """Erase the conversation and all its turns. Raises NotFoundError."""
        keys = Keys.of_conversation(tenant, conversation)
        if not await self._link.call(lambda redis: redis_calls.erase(redis, keys)):
            raise NotFoundError("conversation", conversation)

    async def begin(self, begin: Begin) -> Reply:
        """OK (again for the same owner), BUSY, EXPIRED, VERSION, EXISTS, GONE or ABSENT."""
        check_begin(begin)
        ttl_s = self._history_ttl_s
        return await self._link.call(lambda redis: redis_calls.begin(redis, begin, history_ttl_s=ttl_s))

    async def claim(self, tenant: str, turn: str, *, owner: str, lease_s: float) -> Reply:
        """Take an expired turn over: OK (``value`` ids held), LIVE, TERMINAL, ABSENT or GONE."""
        keys, part = Keys.of_turn(tenant, turn)
        names, args = [keys.turn(part), keys.line, keys.gone], redis_calls.claim_args(owner, lease_s, part)
        return codec.decode_reply(await self._link.call(lambda redis: turns.CLAIM.run(redis, names, args)))

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        """Write many turns' journals in one round trip; one reply each: OK, GAP, LOST, ABSENT or GONE."""
        if not notes:
            return []
        calls = [redis_calls.note_call(note) for note in notes]
        return await self._link.call(lambda redis: redis_calls.run_notes(redis, calls))

    async def commit(self, commit: Commit) -> Reply:
        """OK (``value`` version), DONE, LOST, ABSENT or GONE."""
        check_commit(commit)
        keys, part = Keys.of_turn(commit.tenant, commit.turn)
        names = [keys.turn(part), keys.line, keys.items, keys.item, keys.journal(part), keys.gone, keys.index]
        args = redis_calls.commit_args(commit, part, history_ttl_s=self._history_ttl_s)
        return codec.decode_reply(await self._link.call(lambda redis: turns.COMMIT.run(redis, names, args)))

    async def turn(self, tenant: str, turn: str) -> TurnRecord:
        """Raises NotFoundError."""
        keys, part = Keys.of_turn(tenant, turn)
        fields, answer = await self._link.call(lambda redis: redis_calls.read_turn(redis, keys, part))
        if not fields:
            raise NotFoundError("response", turn)
        return codec.decode_turn(turn, ids.conversation_of(turn), fields, answer=answer)

    async def journal(self, tenant: str, turn: str) -> list[int]:
        """Ids journalled so far, in order; none once the journal has expired, five minutes after the turn's end.

        Raises:
            NotFoundError: there is no such turn.
            TurnLostError: the journal has a hole (the server lost writes).
        """
        keys, part = Keys.of_turn(tenant, turn)
        exists, entries = await self._link.call(lambda redis: redis_calls.read_journal(redis, keys, part))
        if not exists:
            raise NotFoundError("response", turn)
        return codec.decode_journal(turn, entries)

    async def ping(self) -> None:
        """Raises StoreUnavailableError when the store does not answer."""
        await self._link.call(redis_calls.ping)

    async def close(self) -> None:
        """Release connections, unless the link is shared."""
        if self._owns_link:
            await self._link.close()
