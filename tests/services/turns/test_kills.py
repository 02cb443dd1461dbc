"""A kill at every arrow of the sequences that begin turns: whatever dies, each comes to the end that was promised."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cluster.errors import NotFoundError
from services.dispatcher.jobs import Jobs
from services.dispatcher.pace import Pace
from services.turns.events import EventKind, Idempotency
from tests.fakes.doomed import Doomed
from tests.support.kills import DISPATCHER, MORTAL, TEXT, Client, Interactive, kill_all, same_stream, told
from tests.support.turn_kit import TENANT, collect, user

NOTED = 9  # calls: in mid-answer, with a part of it in the journal
HASTY = replace(MORTAL, journal=replace(MORTAL.journal, lease_s=0.03))


class InConversation(Interactive):
    """In a conversation, which is free in the end, whatever happened."""

    async def turn(self):
        return self.world.turn(conversation=await self.world.kit.conversation())

    async def check(self, survivor):
        await super().check(survivor)
        _, events = await collect(survivor.respond(self.asked))
        assert events[-1].kind is EventKind.COMPLETED


class Behind(Interactive):
    """Behind an earlier answer."""

    before = ("One", TEXT)

    async def turn(self):
        async with self.world.alive() as first:
            started, _ = await collect(first.respond(self.world.turn(input=(user("One"),))))
        return self.world.turn(previous=started.response_id)


class SentAgain(Interactive):
    """With an idempotency key. Its client sends it again: the turn that began is the one that it gets."""

    async def turn(self):
        return self.world.turn(idempotency=Idempotency(f"key {id(self)}", "body"))

    async def check(self, survivor):
        started, events = await collect(survivor.respond(self.asked))
        assert self.client.response in {"", started.response_id}
        assert self.doomed.begun in ([], [started.response_id])
        assert told(self.client.seen) == told(events)[: len(self.client.seen)]
        await self.is_whole(await self.world.ended(started.response_id))


class Enqueued(Interactive):
    """A turn in the background, on its way into the queue."""

    async def act(self, service):
        self.client.response = await service.enqueue(self.asked)

    async def turn(self):
        return self.world.turn(is_background=True)


class Dispatched(Enqueued):
    """A turn in the background, carried out by a dispatcher."""

    async def prepare(self):
        await super().prepare()
        async with self.world.alive() as gateway:
            self.response = await gateway.enqueue(self.asked)

    async def act(self, service):
        queue = self.doomed.seam(self.world.kit.queue)
        await Jobs(service, queue, DISPATCHER, Pace(1, 1.0)).work(await queue.take("doomed"))

    async def check(self, survivor):
        await same_stream(survivor, self.client, self.response)
        await self.is_whole(await self.world.ended(self.response))


class Adopted(Dispatched):
    """A turn whose owner died in mid-answer, taken over by a second one, who dies too."""

    async def prepare(self):
        first = Doomed(NOTED, is_after=True)
        reader = Client(first)
        service = await self.world.process(first, HASTY)
        reading = asyncio.create_task(reader.read(service.respond(self.world.turn())))
        await first.died.wait()
        self.client.seen, self.response = reader.seen, first.begun[0]
        reading.cancel()
        await asyncio.sleep(HASTY.journal.lease_s)

    async def act(self, service):
        await service.carry_out(TENANT, self.response)


@pytest.mark.parametrize("sequence", [Interactive, InConversation, Behind, SentAgain])
async def test_an_interactive_turn_is_recorded_and_told_once(world, sequence):
    """Once its client has heard of it, it ends with its whole answer; before, it may as well never have been."""
    await kill_all(world, sequence, {"add", "begin", "stream", "note", "commit", "remove"})


async def test_a_turn_in_the_background_gets_into_the_queue(world):
    """One that was accepted is carried out, whether or not its gateway came to publish it."""
    await kill_all(world, Enqueued, {"check_room", "add", "begin", "publish", "move"})


@pytest.mark.parametrize("sequence", [Dispatched, Adopted])
async def test_a_dispatcher_dies_over_a_turn(world, sequence):
    """The next one goes on from where its journal ends."""
    await kill_all(world, sequence, {"claim", "turn", "tail", "add", "stream", "note", "commit", "remove"})


async def test_a_dead_process_does_nothing_more(world):
    """What it calls neither begins nor returns, and what was under way is not heard of."""
    dead = Doomed(2, is_after=True)
    store = dead.seam(world.store)
    made = await store.create(TENANT, metadata={})
    for call in (store.delete(TENANT, made.id), store.create(TENANT, metadata={}), store.ping()):
        task = asyncio.create_task(call)
        await asyncio.wait({task}, timeout=0.02)
        assert not task.done()
        task.cancel()
    assert (dead.arrow, dead.calls) == ("after delete, call 2", ["create", "delete"])
    with pytest.raises(NotFoundError):
        await world.store.conversation(TENANT, made.id)
