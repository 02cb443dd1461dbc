"""Conversations and turns in Redis or Valkey: the ConversationStore that outlives its process.

Every write is one script on one slot. A repeated call gets the answer of the first: the library sends a command again
when the reply was lost, so ``begin`` by the same owner is OK twice, and ``commit`` OK, then DONE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from cluster.errors import NotFoundError
from services.conversations import codec, ids, redis_args, redis_calls, redis_items, redis_revive
from services.conversations.checks import check_begin, check_commit
from services.conversations.item_store import ItemPage
from services.conversations.items import name_items
from services.conversations.keys import (
    HISTORY_TTL_S,
    IDEMPOTENCY_TTL_S,
    MAIN_LINE,
    MAX_ITEMS,
    Keys,
    idempotency_key,
)
from services.conversations.records import Conversation, Item, Line, TurnRecord, TurnState
from services.conversations.redis_items import brought
from services.conversations.redis_link import RedisLink
from services.conversations.redis_spread import run_spread
from services.conversations.scripts import Arg, items, lines, turns, visits
from services.conversations.scripts.reservations import RESERVE
from services.conversations.store import WHOLE, Begin, Commit, Note, Part, Reply, Reservation, Tail, Tailed, Verdict


class RedisConversationStore:
    """See ``ConversationStore``. Any number of processes may use one server.

    Args:
        source: a URL, a client, or a link shared with other stores (which then stays open on ``close``).
        history_ttl_s: seconds a conversation without a time of its own lives after its last turn or change.
        max_items: a conversation takes no more items than this from its caller; turns go on.
    """

    def __init__(
        self, source: str | Redis | RedisLink, *, history_ttl_s: int = HISTORY_TTL_S, max_items: int = MAX_ITEMS
    ) -> None:
        self._owns_link = not isinstance(source, RedisLink)
        self._link = source if isinstance(source, RedisLink) else RedisLink(source)
        self._history_ttl_s = history_ttl_s
        self._max_items = max_items

    async def create(
        self, tenant: str, *, metadata: Mapping[str, str], items: Sequence[Item] = (), ttl_s: int | None = None
    ) -> Conversation:
        """Make a conversation; item ids are assigned here when empty."""
        name = ids.new_conversation()
        keys = Keys.of_conversation(tenant, name)
        args = redis_args.create_args(metadata, name_items(items, name), self._history_ttl_s, ttl_s)
        names = [keys.line(), keys.items(), keys.item, keys.index]
        created = await self._link.call(lambda redis: lines.CREATE.run(redis, names, args))
        return Conversation(id=name, created_at=created, metadata=dict(metadata))

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        """Raises NotFoundError."""
        keys = Keys.of_conversation(tenant, conversation)
        created, meta = await self._link.call(lambda redis: redis_calls.read_head(redis, keys))
        if created is None or meta is None:
            raise NotFoundError("conversation", conversation)
        return codec.decode_conversation(conversation, created, meta)

    async def load(self, tenant: str, conversation: str, part: Part = WHOLE) -> Line:
        """A line, or a part of it.

        Raises:
            NotFoundError: there is none, or not that item; a hidden line is no conversation.
        """
        keys, name = Keys.of_conversation(tenant, conversation), part.line or MAIN_LINE
        names = [keys.line(name), keys.items(name), keys.item]
        args: list[Arg] = [part.newest, part.oldest, part.upto]
        reply = await self._link.call(lambda redis: lines.LOAD.run(redis, names, args))
        loaded = codec.decode_line(conversation, name, reply) if reply else None
        if loaded is None or (loaded.is_hidden and part.line is None):
            raise NotFoundError("conversation", conversation)
        return loaded

    async def set_metadata(self, tenant: str, conversation: str, metadata: Mapping[str, str]) -> Conversation:
        """Replace all metadata; allowed while a turn runs. Raises NotFoundError."""
        keys = Keys.of_conversation(tenant, conversation)
        names = [keys.line(), keys.items(), keys.item, keys.index]
        args: list[Arg] = [codec.encode(dict(metadata)), self._history_ttl_s]
        outcome = await self._link.call(lambda redis: lines.METADATA.run(redis, names, args))
        (created,) = brought(outcome, conversation)
        return Conversation(id=conversation, created_at=created, metadata=dict(metadata))

    async def items(
        self, tenant: str, conversation: str, *, after: str | None, limit: int, descending: bool
    ) -> ItemPage:
        """A page, without items that were erased. Raises NotFoundError, for an unknown ``after`` too."""
        keys = Keys.of_conversation(tenant, conversation)
        names = [keys.line(), keys.items(), keys.item]
        args: list[Arg] = [after or "", limit, int(descending)]
        outcome = await self._link.call(lambda redis: items.PAGE.run(redis, names, args))
        more, *blobs = brought(outcome, conversation, str(after))
        return ItemPage(items=[codec.decode_item(blob) for blob in blobs], has_more=bool(more))

    async def item_ids(self, tenant: str, conversation: str) -> list[str]:
        """Ids of all items, oldest first (about 40 bytes each). Raises NotFoundError."""
        keys = Keys.of_conversation(tenant, conversation)
        outcome = await self._link.call(lambda redis: items.NAMES.run(redis, [keys.line(), keys.items()], []))
        (names,) = brought(outcome, conversation)
        return [name.decode() for name in names]

    async def read_items(self, tenant: str, conversation: str, names: Sequence[str]) -> list[Item]:
        """The items of these ids (1 to 1,000), without those that were erased. Raises NotFoundError."""
        keys = Keys.of_conversation(tenant, conversation)
        outcome = await self._link.call(lambda redis: items.READ.run(redis, [keys.line(), keys.item], list(names)))
        (blobs,) = brought(outcome, conversation)
        return [codec.decode_item(blob) for blob in blobs if blob is not None]

    async def item(self, tenant: str, conversation: str, item: str) -> Item:
        """One item. Raises NotFoundError, for a malformed item id too."""
        keys = Keys.of_item(tenant, conversation, item)
        names = [keys.line(), keys.items(), keys.item]
        outcome = await self._link.call(lambda redis: items.ITEM.run(redis, names, [item]))
        (blob,) = brought(outcome, conversation, item)
        return codec.decode_item(blob)

    async def append_items(self, tenant: str, conversation: str, items: Sequence[Item]) -> list[Item]:
        """Put items (at least one) at the end, all or none; they are named and dated here where they are not.

        Raises:
            NotFoundError: no such conversation.
            ConversationBusyError: a turn is active.
            ConversationFullError: there would be more items than the store takes.
        """
        keys, named = Keys.of_conversation(tenant, conversation), name_items(items, conversation)
        limits = {"history_ttl_s": self._history_ttl_s, "max_items": self._max_items}
        outcome = await self._link.call(lambda redis: redis_items.append(redis, keys, named, **limits))
        brought(outcome, conversation, max_items=self._max_items)
        return named

    async def delete_item(self, tenant: str, conversation: str, item: str) -> Conversation:
        """Erase one item, here and for every branch. The turn that wrote it stays, without its text.

        Raises:
            NotFoundError: no such conversation, or no such item in it.
            ConversationBusyError: a turn is active.
        """
        keys = Keys.of_item(tenant, conversation, item)
        ttl_s = self._history_ttl_s
        outcome = await self._link.call(lambda redis: redis_items.delete(redis, keys, item, history_ttl_s=ttl_s))
        created, meta = brought(outcome, conversation, item)
        return codec.decode_conversation(conversation, created, meta)

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
        """Take over a turn that waits, or whose lease has run out.

        OK (``value`` ids held), POISON (the same, but only to end it), LIVE, TERMINAL, ABSENT or GONE.
        """
        keys, part = Keys.of_turn(tenant, turn)
        return await self._link.call(lambda redis: redis_calls.claim(redis, keys, part, owner=owner, lease_s=lease_s))

    async def release(self, tenant: str, turn: str, *, owner: str, is_queued: bool) -> Reply:
        """Give a turn up for others to claim at once; ``is_queued``: from the queue. OK, LOST, ABSENT or GONE."""
        keys, part = Keys.of_turn(tenant, turn)
        state = TurnState.QUEUED if is_queued else TurnState.RUNNING
        names, args = redis_args.release_call(keys, part, owner, state)
        return codec.decode_reply(await self._link.call(lambda redis: turns.RELEASE.run(redis, names, args)))

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        """Write many turns' journals in one round trip; one reply each: OK, GAP, LOST, ABSENT, GONE or AWAY."""
        if not notes:
            return []
        calls = [redis_args.note_call(note) for note in notes]
        replies = await run_spread(self._link, turns.NOTE, calls)
        return [codec.decode_reply(reply) if reply is not None else Reply(Verdict.AWAY) for reply in replies]

    async def commit(self, commit: Commit) -> Reply:
        """OK (``value`` version), DONE, LOST, ABSENT or GONE."""
        check_commit(commit)
        names, args = redis_args.commit_call(commit, history_ttl_s=self._history_ttl_s)
        return codec.decode_reply(await self._link.call(lambda redis: turns.COMMIT.run(redis, names, args)))

    async def cancel(self, tenant: str, turn: str) -> TurnState:
        """Ask to end a turn: one that waits and holds no ids ends at once, any other when its owner hears of it.

        Returns the state it is in now. Raises NotFoundError.
        """
        keys, part = Keys.of_turn(tenant, turn)
        ttl_s = self._history_ttl_s
        state = await self._link.call(lambda redis: redis_calls.cancel(redis, keys, part, turn, history_ttl_s=ttl_s))
        if state is None:
            raise NotFoundError("response", turn)
        return TurnState(state.decode())

    async def revive(self, tenant: str, turn: str, *, owner: str, deadline_s: float) -> Reply:
        """Let a failed turn that nobody waits for wait anew, as if it had just been queued.

        OK (again for the same owner), EXISTS, TERMINAL, BUSY, VERSION, ABSENT or GONE.
        """
        keys, part = Keys.of_turn(tenant, turn)
        return await self._link.call(
            lambda redis: redis_revive.revive(redis, keys, part, turn, owner=owner, deadline_s=deadline_s)
        )

    async def turn(self, tenant: str, turn: str) -> TurnRecord:
        """Raises NotFoundError."""
        keys, part = Keys.of_turn(tenant, turn)
        fields, answer = await self._link.call(lambda redis: redis_calls.read_turn(redis, keys, part))
        if not fields:
            raise NotFoundError("response", turn)
        return codec.decode_turn(turn, ids.conversation_of(turn), fields, answer=answer)

    async def turn_input(self, tenant: str, record: TurnRecord) -> list[Item]:
        """The input of a turn, whether or not it has ended; without items that were erased."""
        if record.request.input:
            return record.request.input
        keys, part = Keys.of_turn(tenant, record.id)
        return await self._link.call(lambda redis: redis_calls.read_input(redis, keys, part))

    async def tail(self, tails: Sequence[Tail]) -> list[Tailed]:
        """Look at many turns in one round trip."""
        if not tails:
            return []
        calls = [redis_args.tail_call(tail) for tail in tails]
        replies = await run_spread(self._link, visits.TAIL, calls)
        return [
            codec.decode_tailed(reply, tail.after) if reply is not None else Tailed(None, is_away=True)
            for tail, reply in zip(tails, replies, strict=True)
        ]

    async def delete_turn(self, tenant: str, turn: str) -> None:
        """Erase a turn and, unless they belong to a conversation, its items. Raises NotFoundError."""
        keys, part = Keys.of_turn(tenant, turn)
        if not await self._link.call(lambda redis: redis_calls.erase_turn(redis, keys, part, turn)):
            raise NotFoundError("response", turn)

    async def pointed_turns(self, tenant: str, conversation: str) -> list[str]:
        """The turns of a root that a queue or the due index may point to; none of an unknown one."""
        keys = Keys.of_conversation(tenant, conversation)
        cursor, found = await self._pointed(keys, 0)
        while cursor:  # a call for each slice, or a long history would not be read in the time of one
            cursor, more = await self._pointed(keys, cursor)
            found += more
        return [ids.response_of(keys.root, part) for part in dict.fromkeys(found)]

    async def _pointed(self, keys: Keys, cursor: int) -> tuple[int, list[str]]:
        return await self._link.call(lambda redis: redis_calls.pointed_turns(redis, keys, cursor))

    async def is_erased(self, tenant: str, turn: str) -> bool:
        """Whether a turn is known to have been erased; known for a day."""
        keys, part = Keys.of_turn(tenant, turn)
        return await self._link.call(lambda redis: redis_calls.is_erased(redis, keys, part))

    async def reserve(
        self, tenant: str, key: str, reservation: Reservation, *, instead_of: Reservation | None = None
    ) -> Reservation:
        """What an idempotency key (any text) stands for: ``reservation``, or what was reserved before."""
        names = [idempotency_key(tenant, key)]
        args: list[Arg] = [
            codec.encode(reservation),
            IDEMPOTENCY_TTL_S,
            codec.encode(instead_of) if instead_of else b"",
        ]
        return codec.decode_reservation(await self._link.call(lambda redis: RESERVE.run(redis, names, args)))

    async def ping(self) -> None:
        """Raises StoreUnavailableError when the store does not answer."""
        await self._link.call(redis_calls.ping)

    async def close(self) -> None:
        """Release connections, unless the link is shared."""
        if self._owns_link:
            await self._link.close()
