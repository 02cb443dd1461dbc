"""One process killed at every arrow of what it does, and others that find what it left.

What outlives a process is its ``World``. A ``Case`` is one killed run; the survivors come when all runs of a sequence
have been killed, so that their leases run out together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.errors import NotFoundError
from services.backend.scripted import ScriptedBackend
from services.conversations.records import TurnRecord, TurnState
from services.conversations.store import ConversationStore, Part
from services.dispatcher.dispatcher import Dispatcher
from services.dispatcher.settings import DispatcherSettings
from services.turns.events import Cursor, EventKind, StoredTurn, TurnEvent, TurnStarted
from services.turns.service import TurnService
from services.turns.settings import JournalSettings, TurnSettings
from tests.fakes.doomed import Doomed
from tests.support.turn_kit import TENANT, TurnKit, collect, user

TEXT = "Hello there. How are you?"
PATIENCE_S = 20.0
LIVELY = TurnSettings(look_s=0.005, journal=JournalSettings(flush_s=0.002, flush_ids=2, renew_s=0.01))
MORTAL = replace(LIVELY, journal=replace(LIVELY.journal, lease_s=0.15, margin_s=0.0))
DISPATCHER = DispatcherSettings(poll_s=0.01, care_s=0.02, extend_s=0.05, again_s=0.05, idle_s=0.15)


async def nothing() -> None:
    """Go on."""


@dataclass
class Client:
    """Reads a turn from a process, until that dies. Keeps all that it was sent.

    Attributes:
        seen: numbered events.
        response: id of its turn, once it was told.
        broken: why its stream ended before the turn did.
    """

    process: Doomed
    seen: list[TurnEvent] = field(default_factory=list)
    response: str = ""
    broken: str = ""

    async def read(
        self, events: AsyncIterator[TurnStarted | TurnEvent], on_event: Callable[[], Awaitable[None]] = nothing
    ) -> None:
        """Take all events; ``on_event`` is called behind each numbered one."""
        async for event in events:
            if self.process.is_dead:
                return
            if isinstance(event, TurnStarted):
                self.response = event.response_id
            elif event.kind is EventKind.BROKEN:  # that one is no part of the turn
                self.broken = event.result.error_code
            else:
                self.seen.append(event)
                await on_event()


@dataclass
class World:
    """What outlives processes."""

    kit: TurnKit

    @property
    def store(self) -> ConversationStore:
        return self.kit.store

    def turn(self, **fields: Any) -> StoredTurn:
        return replace(self.kit.stored_turn(user("Hi")), **fields)

    async def process(self, doomed: Doomed, settings: TurnSettings = MORTAL, **seams: Any) -> TurnService:
        """A process that runs turns and is going to die."""
        kit = self.kit
        own = {"store": kit.store, "due": kit.due, "queue": kit.queue, "backend": self.backend()} | seams
        service = kit.another(settings=settings, **{name: doomed.seam(seam) for name, seam in own.items()})
        await service.start()
        return service

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[TurnService]:
        """A process of turns that ends in order."""
        service = self.kit.another(settings=LIVELY)
        await service.start()
        yield service
        await service.stop()

    def backend(self) -> ScriptedBackend:
        """One that answers as the others do."""
        return ScriptedBackend(self.kit.backend.answer, frame=self.kit.backend.frame)

    @asynccontextmanager
    async def survivors(self) -> AsyncIterator[TurnService]:
        """A process of turns with a dispatcher, until both have nothing left to do."""
        async with self.alive() as service:
            dispatcher = Dispatcher(
                service, self.store, self.kit.queue, self.kit.due, name="survivor", settings=DISPATCHER
            )
            await dispatcher.start()
            yield service
            await self._quiet()
            await dispatcher.stop()

    async def _quiet(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                lag = await self.kit.queue.lag()
                if not (lag.waiting or lag.working or lag.delayed or await self.kit.due.look(hide_s=0.0)):
                    return
                await asyncio.sleep(0.005)

    async def ended(self, response: str) -> TurnRecord | None:
        """The record of a turn once it has ended; None once it is certain that there is none."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    record = await self.store.turn(TENANT, response)
                except NotFoundError:
                    return None
                if not record.state.is_open:
                    return record
                await asyncio.sleep(0.005)

    async def texts(self, record: TurnRecord) -> list[str]:
        """All that the line of a turn holds; the line must be free."""
        line = await self.store.load(TENANT, record.conversation, Part(line=record.line))
        assert line.active == ""
        return [item.text for item in line.items]


async def same_stream(service: TurnService, client: Client, response: str) -> list[TurnEvent]:
    """All events of a turn; what a killed process sent of them must be how they begin, and a reader gets the rest."""
    cursor = Cursor(client.seen[-1].seq, client.seen[-1].crc) if client.seen else None
    if client.seen and client.seen[-1].result is not None:
        cursor = Cursor(client.seen[-2].seq, client.seen[-2].crc)
    _, events = await collect(service.read(TENANT, response, cursor))
    assert [event.seq for event in events] == list(range(len(events)))
    assert told(client.seen) == told(events)[: len(client.seen)]
    return events


def told(events: Sequence[TurnEvent]) -> list[tuple[Any, ...]]:
    """What a client can tell events apart by."""
    return [(event.seq, event.crc, event.kind, event.text) for event in events]


@dataclass
class Case:
    """One run of a sequence, by a process that dies in it. A sequence is a subclass.

    Attributes:
        world: what outlives the process.
        doomed: the process.
        client: of the process; what it was sent counts until the kill.
    """

    world: World
    doomed: Doomed

    def __post_init__(self) -> None:
        self.client = Client(self.doomed)

    async def prepare(self) -> None:
        """What was before."""

    async def act(self, service: TurnService) -> None:
        """What the process does."""
        raise NotImplementedError

    async def check(self, survivor: TurnService) -> None:
        """What must hold in the end."""
        raise NotImplementedError


class Interactive(Case):
    """A turn that its client waits for."""

    before: tuple[str, ...] = ()  # what its line holds

    async def turn(self):
        return self.world.turn()

    async def prepare(self):
        self.asked = await self.turn()

    async def act(self, service):
        await self.client.read(service.respond(self.asked))

    async def check(self, survivor):
        (response,) = self.doomed.begun or [""]
        record = await self.world.ended(response) if response else None
        if record is None:
            assert not self.client.response
        else:
            await self.goes_on(survivor, response)
            await self.is_whole(record)

    async def goes_on(self, survivor, response):
        await same_stream(survivor, self.client, response)

    async def is_whole(self, record):
        assert (record.state, record.answer.text) == (TurnState.COMPLETED, TEXT)
        assert await self.world.texts(record) == [*self.before, "Hi", TEXT]


async def kill_all(world: World, sequence: Callable[[World, Doomed], Case], expected: set[str]) -> None:
    """``kill_everywhere``; the calls it was killed at must be the ``expected`` ones, among others."""
    cases = await kill_everywhere(world, sequence)
    assert expected <= {name for case in cases for name in case.doomed.calls}


async def kill_everywhere(world: World, make: Callable[[World, Doomed], Case]) -> list[Case]:
    """Run a sequence again and again, killed before and after each of its calls, then let the survivors come."""
    mine = asyncio.all_tasks()
    try:
        cases = [case for is_after in (False, True) for case in await _killed_in_turn(world, make, is_after=is_after)]
        async with world.survivors() as survivor:
            for case in cases:
                await _checked(case, survivor)
    finally:
        await bury(asyncio.all_tasks() - mine)
    return cases


async def _checked(case: Case, survivor: TurnService) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await case.check(survivor)
    except BaseException as error:
        error.add_note(f"killed {case.doomed.arrow}" if case.doomed.is_dead else "not killed")
        raise


async def _killed_in_turn(world: World, make: Callable[[World, Doomed], Case], *, is_after: bool) -> list[Case]:
    """One case for each call, and the first that came to its end alive."""
    cases: list[Case] = []
    while not cases or cases[-1].doomed.is_dead:
        cases.append(make(world, Doomed(len(cases) + 1, is_after=is_after)))
        await _run(cases[-1])
    return cases


async def _run(case: Case) -> None:
    await case.prepare()
    service = await case.world.process(case.doomed)
    acting = asyncio.create_task(case.act(service))
    dying = asyncio.create_task(case.doomed.died.wait())
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait({acting, dying}, return_when=asyncio.FIRST_COMPLETED)
    if not case.doomed.is_dead:
        dying.cancel()
        acting.result()
        await service.stop()


async def bury(tasks: set[asyncio.Task[Any]]) -> None:
    """End the tasks of dead processes, which wait again wherever their clean-up calls something."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.01)
