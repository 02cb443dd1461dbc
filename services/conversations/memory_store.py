"""The ConversationStore of one process, for tests and for a gateway without Redis. It forgets when the process ends.

Answers are those of the Redis store, verdict for verdict: one contract suite runs on both. Nothing awaits inside, so
every method is as atomic as a script.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from cluster.errors import NotFoundError
from services.conversations import ids, memory_items, memory_revive, memory_turns
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
from services.conversations.memory_state import LineState, RootState, TurnEntry
from services.conversations.records import Conversation, Item, Line, TurnRecord, TurnState
from services.conversations.store import (
    WHOLE,
    Begin,
    Commit,
    Note,
    Part,
    Reply,
    Reservation,
    Tail,
    Tailed,
    Verdict,
)


class MemoryConversationStore:
    """See ``ConversationStore``.

    Args:
        history_ttl_s: seconds a conversation without a time of its own lives after its last turn or change.
        max_items: a conversation takes no more items than this from its caller; turns go on.
        clock: unix seconds; tests hand in their own.
    """

    def __init__(
        self,
        *,
        history_ttl_s: int = HISTORY_TTL_S,
        max_items: int = MAX_ITEMS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._history_ttl_s = history_ttl_s
        self._max_items = max_items
        self._clock = clock
        self._roots: dict[Keys, RootState] = {}
        self._reservations: dict[str, tuple[float, Reservation]] = {}  # until when

    async def create(
        self, tenant: str, *, metadata: Mapping[str, str], items: Sequence[Item] = (), ttl_s: int | None = None
    ) -> Conversation:
        """Make a conversation; item ids are assigned here when empty."""
        name = ids.new_conversation()
        root = self._root(Keys.of_conversation(tenant, name))
        line = root.lines[MAIN_LINE] = memory_turns.new_line(name, metadata, self._clock())
        line.is_hidden, line.ttl_s = False, ttl_s
        memory_turns.append(root, line, name_items(items, name))
        return self._renewed(line)

    async def conversation(self, tenant: str, conversation: str) -> Conversation:
        """Raises NotFoundError."""
        return self._conversation(tenant, conversation)[1].conversation

    async def load(self, tenant: str, conversation: str, part: Part = WHOLE) -> Line:
        """A line, or a part of it.

        Raises:
            NotFoundError: there is none, or not that item; a hidden line is no conversation.
        """
        root = self._known(Keys.of_conversation(tenant, conversation))
        found = root.lines.get(part.line) if part.line else root.conversation
        if found is None or (part.upto and part.upto not in found.items):
            raise NotFoundError("conversation", conversation)
        names = found.items[: found.items.index(part.upto) + 1] if part.upto else found.items
        return Line(
            conversation=found.conversation,
            version=found.version,
            active=found.active,
            hint=found.hint,
            items=root.read(names[-part.newest :]),
            oldest=root.read(names[: part.oldest]),
            last=found.last,
            name=part.line or MAIN_LINE,
            is_hidden=found.is_hidden,
        )

    async def set_metadata(self, tenant: str, conversation: str, metadata: Mapping[str, str]) -> Conversation:
        """Replace all metadata; allowed while a turn runs. Raises NotFoundError."""
        _, line = self._conversation(tenant, conversation)
        line.conversation = msgspec.structs.replace(line.conversation, metadata=dict(metadata))
        return line.conversation if line.active else self._renewed(line)  # a busy line has its turn's time

    async def items(
        self, tenant: str, conversation: str, *, after: str | None, limit: int, descending: bool
    ) -> ItemPage:
        """A page, without items that were erased. Raises NotFoundError, for an unknown ``after`` too."""
        root, line = self._conversation(tenant, conversation)
        return memory_items.page(root, line, after=after, limit=limit, descending=descending)

    async def item_ids(self, tenant: str, conversation: str) -> list[str]:
        """Ids of all items, oldest first. Raises NotFoundError."""
        return list(self._conversation(tenant, conversation)[1].items)

    async def read_items(self, tenant: str, conversation: str, names: Sequence[str]) -> list[Item]:
        """The items of these ids, without those that were erased. Raises NotFoundError."""
        return self._conversation(tenant, conversation)[0].read(names)

    async def item(self, tenant: str, conversation: str, item: str) -> Item:
        """One item. Raises NotFoundError, for a malformed item id too."""
        root, line = self._line(Keys.of_item(tenant, conversation, item), conversation)
        return memory_items.one(root, line, item)

    async def append_items(self, tenant: str, conversation: str, items: Sequence[Item]) -> list[Item]:
        """Put items (at least one) at the end, all or none; they are named and dated here where they are not.

        Raises:
            NotFoundError: no such conversation.
            ConversationBusyError: a turn is active.
            ConversationFullError: there would be more items than the store takes.
        """
        root, line = self._conversation(tenant, conversation)
        named = name_items(items, conversation)
        memory_items.append(root, line, named, max_items=self._max_items)
        self._renewed(line)
        return named

    async def delete_item(self, tenant: str, conversation: str, item: str) -> Conversation:
        """Erase one item, here and for every branch. The turn that wrote it stays, without its text.

        Raises:
            NotFoundError: no such conversation, or no such item in it.
            ConversationBusyError: a turn is active.
        """
        root, line = self._line(Keys.of_item(tenant, conversation, item), conversation)
        memory_items.delete(root, line, item)
        return self._renewed(line)

    async def delete(self, tenant: str, conversation: str) -> None:
        """Erase the conversation and all its turns. Raises NotFoundError."""
        self._conversation(tenant, conversation)[0].erase(self._clock())

    async def begin(self, begin: Begin) -> Reply:
        """OK (again for the same owner), BUSY, EXPIRED, VERSION, EXISTS, GONE or ABSENT."""
        check_begin(begin)
        root = self._root(Keys.of_conversation(begin.tenant, begin.conversation))
        return memory_turns.begin(root, begin, self._clock(), self._history_ttl_s)

    async def claim(self, tenant: str, turn: str, *, owner: str, lease_s: float) -> Reply:
        """Take over a turn that waits, or whose lease has run out.

        OK (``value`` ids held), POISON (the same, but only to end it), LIVE, TERMINAL, ABSENT or GONE.
        """
        root, entry, refusal = self._writable(tenant, turn)
        return memory_turns.claim(root, entry, owner, lease_s, self._clock()) if entry else refusal

    async def release(self, tenant: str, turn: str, *, owner: str, is_queued: bool) -> Reply:
        """Give a turn up for others to claim at once; ``is_queued``: from the queue. OK, LOST, ABSENT or GONE."""
        _, entry, refusal = self._writable(tenant, turn)
        return memory_turns.release(entry, owner, self._clock(), is_queued=is_queued) if entry else refusal

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        """Write many turns' journals; one reply each: OK, GAP, LOST, ABSENT or GONE."""
        return [self._note(note) for note in notes]

    async def commit(self, commit: Commit) -> Reply:
        """OK (``value`` version), DONE, LOST, ABSENT or GONE."""
        check_commit(commit)
        root, entry, refusal = self._writable(commit.tenant, commit.turn)
        return memory_turns.commit(root, entry, commit, self._clock(), self._history_ttl_s) if entry else refusal

    async def cancel(self, tenant: str, turn: str) -> TurnState:
        """Ask to end a turn: one that waits and holds no ids ends at once, any other when its owner hears of it.

        Returns the state it is in now. Raises NotFoundError.
        """
        root, entry = self._turn(tenant, turn)
        return memory_turns.cancel(root, entry, self._clock(), self._history_ttl_s)

    async def revive(self, tenant: str, turn: str, *, owner: str, deadline_s: float) -> Reply:
        """Let a failed turn that nobody waits for wait anew, as if it had just been queued.

        OK (again for the same owner), EXISTS, TERMINAL, BUSY, VERSION, ABSENT or GONE.
        """
        root, entry, refusal = self._writable(tenant, turn)
        if entry is None:
            return refusal
        return memory_revive.revive(root, entry, owner=owner, deadline_s=deadline_s, now=self._clock())

    async def turn(self, tenant: str, turn: str) -> TurnRecord:
        """Raises NotFoundError."""
        root, entry = self._turn(tenant, turn)
        return entry.record(ids.conversation_of(turn), root.items.get(entry.answer))

    async def turn_input(self, tenant: str, record: TurnRecord) -> list[Item]:
        """The input of a turn, whether or not it has ended; without items that were erased."""
        if record.request.input:
            return record.request.input
        root, entry = self._turn(tenant, record.id)
        return root.read(entry.inputs)

    async def tail(self, tails: Sequence[Tail]) -> list[Tailed]:
        """Look at many turns."""
        return [self._tail(tail) for tail in tails]

    async def delete_turn(self, tenant: str, turn: str) -> None:
        """Erase a turn and, unless they belong to a conversation, its items. Raises NotFoundError."""
        root, entry = self._turn(tenant, turn)
        memory_turns.erase(root, entry, self._clock())

    async def pointed_turns(self, tenant: str, conversation: str) -> list[str]:
        """The turns of a root that a queue or the due index may point to; none of an unknown one."""
        root = self._known(Keys.of_conversation(tenant, conversation))
        return [turn for turn, entry in root.turns.items() if entry.state.is_pointed]

    async def is_erased(self, tenant: str, turn: str) -> bool:
        """Whether a turn is known to have been erased; known for a day."""
        return self._known(Keys.of_turn(tenant, turn)[0]).is_gone(turn, self._clock())

    async def reserve(
        self, tenant: str, key: str, reservation: Reservation, *, instead_of: Reservation | None = None
    ) -> Reservation:
        """What an idempotency key (any text) stands for: ``reservation``, or what was reserved before."""
        name, now = idempotency_key(tenant, key), self._clock()
        until, held = self._reservations.get(name, (0.0, reservation))
        if until <= now or held == instead_of:
            held = reservation
            self._reservations[name] = (now + IDEMPOTENCY_TTL_S, held)
        return held

    async def ping(self) -> None:
        """Memory always answers."""

    async def close(self) -> None:
        """Nothing to release; what is stored stays readable."""

    def _root(self, keys: Keys) -> RootState:
        """The root's state, to be written to; what has expired is dropped on the way in."""
        root = self._roots.setdefault(keys, RootState())
        root.drop_expired(self._clock())
        return root

    def _known(self, keys: Keys) -> RootState:
        """The root's state, to be read: nothing is kept for a root that nobody made."""
        root = self._root(keys)
        if root.is_empty:
            del self._roots[keys]
        return root

    def _conversation(self, tenant: str, conversation: str) -> tuple[RootState, LineState]:
        return self._line(Keys.of_conversation(tenant, conversation), conversation)

    def _line(self, keys: Keys, conversation: str) -> tuple[RootState, LineState]:
        root = self._known(keys)
        if root.conversation is None:
            raise NotFoundError("conversation", conversation)
        return root, root.conversation

    def _renewed(self, line: LineState) -> Conversation:
        """The conversation, whose time begins anew."""
        line.expires_at = self._clock() + line.life_s(self._history_ttl_s)
        return line.conversation

    def _turn(self, tenant: str, turn: str) -> tuple[RootState, TurnEntry]:
        root = self._known(Keys.of_turn(tenant, turn)[0])
        if turn not in root.turns:
            raise NotFoundError("response", turn)
        return root, root.turns[turn]

    def _writable(self, tenant: str, turn: str) -> tuple[RootState, TurnEntry | None, Reply]:
        """The turn, or the refusal of a write to it."""
        root = self._known(Keys.of_turn(tenant, turn)[0])
        if root.is_gone(turn, self._clock()):
            return root, None, Reply(Verdict.GONE)
        return root, root.turns.get(turn), Reply(Verdict.ABSENT)

    def _note(self, note: Note) -> Reply:
        _, entry, refusal = self._writable(note.tenant, note.turn)
        return memory_turns.note(entry, note, self._clock()) if entry else refusal

    def _tail(self, tail: Tail) -> Tailed:
        entry = self._known(Keys.of_turn(tail.tenant, tail.turn)[0]).turns.get(tail.turn)
        return memory_turns.tail(entry, tail, self._clock()) if entry else Tailed(None)
