"""A kill at every arrow of the sequences that end turns early: drain, cancel and erase, by their owners and by others."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from cluster.errors import NotFoundError, StreamDivergedError
from services.conversations.ids import conversation_of
from services.conversations.keys import MAIN_LINE
from services.conversations.records import TurnState
from services.conversations.store import Part
from tests.fakes.doomed import Doomed
from tests.support.erasing import an_eraser
from tests.support.kills import LIVELY, TEXT, Case, Client, Interactive, kill_all
from tests.support.turn_kit import TENANT, deltas, until

FEW = 6  # events: in mid-answer
PATIENT = replace(LIVELY, resume_s=60.0)


class Drained(Interactive):
    """Its process is told to stop in mid-answer."""

    def __post_init__(self):
        super().__post_init__()
        self.doomed.is_armed = False

    async def act(self, service):
        self.service = service
        await self.client.read(service.respond(self.asked), self._on_event)

    async def _on_event(self):
        if len(self.client.seen) == FEW:
            self.doomed.is_armed = True
            await self.service.stop()


class Cancelled(Interactive):
    """Its client asks to cancel it in mid-answer, by another process, and hears of it from there if need be."""

    async def act(self, service):
        await self.client.read(service.respond(self.asked), self._on_event)

    async def _on_event(self):
        if len(self.client.seen) == FEW:
            await self.world.store.cancel(TENANT, self.client.response)

    async def goes_on(self, survivor, response):
        """What its owner had said and not yet written is gone with it, which its reader must be told."""
        try:
            await super().goes_on(survivor, response)
        except StreamDivergedError:
            record = await self.world.ended(response)
            assert (record.state, record.claims) == (TurnState.CANCELLED, 1)

    async def is_whole(self, record):
        """What was said stays. A turn that was over before its owner heard of it is complete."""
        if len(self.client.seen) < FEW or record.state is TurnState.COMPLETED:
            await super().is_whole(record)
            return
        assert record.state is TurnState.CANCELLED
        said = [record.answer.text] if record.answer else []
        assert await self.world.texts(record) == (["Hi", *said] if said else [])
        assert TEXT.startswith("".join(said))


class Erased(Interactive):
    """Somebody erases it in mid-answer. Whatever its owner does afterwards, nothing of it comes back."""

    async def act(self, service):
        await self.client.read(service.respond(self.asked), self._on_event)

    async def _on_event(self):
        if len(self.client.seen) == FEW:
            await self.world.store.delete_turn(TENANT, self.client.response)

    async def check(self, survivor):
        if len(self.client.seen) < FEW:
            await super().check(survivor)
            return
        with pytest.raises(NotFoundError):
            await self.world.store.turn(TENANT, self.client.response)
        with pytest.raises(NotFoundError):
            await self.world.store.load(TENANT, conversation_of(self.client.response), Part(line=MAIN_LINE))
        assert await self.world.store.is_erased(TENANT, self.client.response)


class OfOthers(Case):
    """What a gateway does to a turn that another process owns, which lives."""

    async def prepare(self):
        """The owner has said a part of its answer and waits for a replica to go on."""
        self.gate = self.world.backend()
        self.owner = self.world.kit.another(settings=PATIENT, backend=self.gate)
        await self.owner.start()
        self.conversation = await self.world.kit.conversation()
        self.reader = Client(Doomed())
        turn = self.world.turn(conversation=self.conversation)
        self.reading = asyncio.create_task(self.reader.read(self.owner.respond(turn), self._on_event))
        await until(lambda: len(self.reader.seen) == FEW)

    async def _on_event(self):
        if len(self.reader.seen) == FEW:
            self.gate.gate.clear()

    async def ended(self):
        """The owner's stream has come to its end."""
        self.gate.gate.set()
        await self.reading
        await self.owner.stop()


class Cancelling(OfOthers):
    """Asks to cancel it."""

    async def act(self, service):
        await service.cancel(TENANT, self.reader.response)

    async def check(self, survivor):
        is_asked = (await self.world.store.turn(TENANT, self.reader.response)).is_cancelled
        await self.ended()
        record = await self.world.ended(self.reader.response)
        assert record.state is (TurnState.CANCELLED if is_asked else TurnState.COMPLETED)
        assert await self.world.texts(record) == ["Hi", record.answer.text]
        assert self.reader.seen[-1].kind.value == record.state.value
        assert deltas(self.reader.seen) == record.answer.text
        assert is_asked or not self.doomed.is_dead or self.doomed.arrow == "before cancel, call 1"


class Erasing(OfOthers):
    """Erases its conversation. If it dies before it has, it is asked again."""

    async def act(self, service):
        store, backend = (self.doomed.seam(seam) for seam in (self.world.store, self.gate))
        await an_eraser(store, backend).erase_conversation(TENANT, self.conversation)

    async def check(self, survivor):
        with contextlib.suppress(NotFoundError):
            await self.world.store.delete(TENANT, self.conversation)
        await self.ended()
        assert self.reader.broken == "not_found"
        for gone in (
            self.world.store.turn(TENANT, self.reader.response),
            self.world.store.load(TENANT, self.conversation),
        ):
            with pytest.raises(NotFoundError):
                await gone


async def test_a_process_that_is_told_to_stop_may_die_of_it(world):
    """Another one goes on where it was."""
    await kill_all(world, Drained, {"note", "release", "add"})


async def test_a_cancelled_turns_owner_dies(world):
    """Whoever adopts it ends it with what was said; only what was over before it was heard of is complete."""
    await kill_all(world, Cancelled, {"note", "commit"})


async def test_an_erased_turns_owner_dies(world):
    """Neither it nor who adopts it brings anything back; most often its next note tells it so."""
    await kill_all(world, Erased, {"begin", "stream", "note"})


async def test_a_gateway_dies_while_it_cancels_a_turn_of_others(world):
    """The turn is cancelled once it was asked for, by its owner, and told as it is recorded."""
    await kill_all(world, Cancelling, {"cancel", "turn"})


async def test_a_gateway_dies_while_it_erases_a_conversation_with_a_turn(world):
    """Its owner hears of it, and nothing is left."""
    await kill_all(world, Erasing, {"delete", "forget"})
