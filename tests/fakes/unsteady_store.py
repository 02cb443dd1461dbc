"""A conversation store that goes away, loses replies or is held up when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn

from cluster.errors import StoreUnavailableError
from services.conversations.keys import Keys
from services.conversations.memory_store import MemoryConversationStore
from services.conversations.store import Begin, Commit, Note, Reply, Tail, Tailed, Verdict


class UnsteadyStore(MemoryConversationStore):
    """The memory store with switches.

    Attributes:
        is_away: every write and load raises StoreUnavailableError.
        silent: turns whose part of the store is away for notes and looks.
        gate: while it is unset, writes wait in front of the store.
        lost_begins, lost_commits: so many of them are done but their replies are lost.
        note_reply: overrides the reply to every note.
        notes: every call of ``note``, in order.
        commits: every commit, in order.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        if clock is None:
            super().__init__()
        else:
            super().__init__(clock=clock)
        self.is_away = False
        self.silent: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.lost_begins = 0
        self.lost_commits = 0
        self.note_reply: Reply | None = None
        self.notes: list[list[Note]] = []
        self.commits: list[Commit] = []

    async def delete(self, tenant: str, conversation: str) -> None:
        await self._pass()
        await super().delete(tenant, conversation)

    async def begin(self, begin: Begin) -> Reply:
        await self._pass()
        reply = await super().begin(begin)
        if self.lost_begins:
            self.lost_begins -= 1
            raise _away()
        return reply

    async def note(self, notes: Sequence[Note]) -> list[Reply]:
        await self._pass()
        self.notes.append(list(notes))
        if self.note_reply is not None:
            return [self.note_reply] * len(notes)
        taken = iter(await super().note([note for note in notes if note.turn not in self.silent]))
        return [Reply(Verdict.AWAY) if note.turn in self.silent else next(taken) for note in notes]

    async def tail(self, tails: Sequence[Tail]) -> list[Tailed]:
        found = await super().tail(tails)
        return [
            Tailed(None, is_away=True) if tail.turn in self.silent else one
            for tail, one in zip(tails, found, strict=True)
        ]

    async def commit(self, commit: Commit) -> Reply:
        await self._pass()
        self.commits.append(commit)
        reply = await super().commit(commit)
        if self.lost_commits:
            self.lost_commits -= 1
            raise _away()
        return reply

    async def away(self) -> NoReturn:
        """Any call, while the store is away."""
        raise _away()

    def lose(self, tenant: str, turn: str) -> None:
        """Forget a turn's record as a failover does that had not replicated its begin."""
        keys, _ = Keys.of_turn(tenant, turn)
        root = self._roots[keys]
        entry = root.turns.pop(turn)
        root.lines[entry.line].active = ""

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.is_away:
            raise _away()


def _away() -> StoreUnavailableError:
    return StoreUnavailableError("The history store does not answer.", retry_after_s=1.0)
