"""Dispatchers as processes over a real server: killed with -9, frozen, ended; and a server that goes away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from services.backend.scripted import ScriptedBackend
from services.conversations.records import TurnState
from services.conversations.redis_link import RedisLink
from services.conversations.store import Part
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.turns.parts import TurnParts
from services.turns.service import TurnService
from tests.support.dispatch_kit import DispatchKit, drawn_answer, eventually
from tests.support.dispatcher_process import parts_over, running_dispatcher
from tests.support.turn_kit import TENANT
from tests.support.valkey import running_valkey

pytestmark = [pytest.mark.valkey, pytest.mark.heavy, pytest.mark.timeout(120)]

WORDS = 40
LEASE_S = 2.0
PACE = {"words": WORDS, "pause": 0.05, "lease": LEASE_S}
TURNS = 24


@pytest.fixture
def server():
    with running_valkey() as server:
        yield server
        assert server.keys_without_ttl(allowed=("c1:q:", "c1:due:")) == []


class Gateway:
    """A process that only accepts turns, and looks at their records."""

    def __init__(self, parts: TurnParts, link: RedisLink, kit: DispatchKit) -> None:
        self.turns = TurnService(parts)
        self.queue = RedisQueue(link, BACKGROUND)
        self._store = parts.store
        self._kit = kit

    async def enqueue(self, number: int) -> str:
        turn = self._kit.background(f"Question {number}", options={"seed": number})
        return await self.turns.enqueue(turn)

    async def states(self, turns: list[str]) -> list[TurnState]:
        return [(await self._store.turn(TENANT, turn)).state for turn in turns]

    async def all_ended(self, turns: list[str]) -> None:
        async def have_ended() -> bool:
            return not any(state.is_open for state in await self.states(turns))

        await eventually(have_ended, 60.0)

    async def answers(self, turns: list[str]) -> list[list[str]]:
        """What stands on each turn's line."""
        records = [await self._store.turn(TENANT, turn) for turn in turns]
        lines = [await self._store.load(TENANT, each.conversation, Part(line=each.line)) for each in records]
        return [[item.text for item in line.items] for line in lines]

    async def some_run(self, turns: list[str], count: int) -> None:
        async def do_run() -> bool:
            records = [await self._store.turn(TENANT, turn) for turn in turns]
            return sum(each.state is TurnState.RUNNING and each.total > 0 for each in records) >= count

        await eventually(do_run)


@pytest.fixture
async def gateway(tokenizer, server) -> AsyncIterator[Gateway]:
    link = RedisLink(server.url)
    kit = DispatchKit(tokenizer, ScriptedBackend(drawn_answer(tokenizer)))
    made = Gateway(parts_over(link, words=WORDS), link, kit)
    await made.turns.start()
    yield made
    await made.turns.stop()
    await link.close()


async def expected(gateway: Gateway, server) -> list[list[str]]:
    """The lines of all questions, when nobody dies."""
    turns = [await gateway.enqueue(number) for number in range(TURNS)]
    with running_dispatcher(server.url, "undisturbed", words=WORDS):
        await gateway.all_ended(turns)
    return await gateway.answers(turns)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=["killed", "frozen", "ended"])
async def test_no_turn_is_lost_or_said_twice(gateway, server, end):
    """One of two dispatchers goes in the middle of its turns; a frozen one wakes when others have ended them."""
    whole = await expected(gateway, server)
    with ExitStack() as stack:
        doomed = stack.enter_context(running_dispatcher(server.url, "doomed", slots=8, **PACE))
        stack.enter_context(running_dispatcher(server.url, "survivor", slots=8, **PACE))
        turns = [await gateway.enqueue(number) for number in range(TURNS)]
        await gateway.some_run(turns, 12)
        os.kill(doomed.pid, end)
        await gateway.all_ended(turns)
        os.kill(doomed.pid, signal.SIGCONT) if end is signal.SIGSTOP else None
        await eventually(lambda: is_settled(gateway))
    assert await gateway.answers(turns) == whole
    assert await gateway.queue.dead() == []


async def is_settled(gateway: Gateway) -> bool:
    lag = await gateway.queue.lag()
    return lag.waiting == lag.working == lag.delayed == 0


async def test_a_frozen_server_is_waited_for(gateway, server):
    """For longer than a call may take; then all turns end."""
    whole = await expected(gateway, server)
    with running_dispatcher(server.url, "d", slots=8, **PACE):
        turns = [await gateway.enqueue(number) for number in range(TURNS)]
        await gateway.some_run(turns, 4)
        with server.stopped():
            await asyncio.sleep(2.5)
        await gateway.all_ended(turns)
    assert await gateway.answers(turns) == whole
