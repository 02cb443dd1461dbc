"""`chatglm-cluster queue`, over a real Valkey server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from services.conversations.records import TurnRecord, TurnState
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.queue.base import Dead, Retry
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from tests.support.jobs import drain, fill
from tests.support.turns import a_begin, a_commit, a_request
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.valkey

Command = Callable[..., tuple[int, str, str]]
Run = Callable[..., tuple[int, str]]
T = TypeVar("T")


@pytest.fixture
def run(cli: Command, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call ``queue`` on a wide terminal; its status and what it printed."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*args: str) -> tuple[int, str]:
        status, told, errors = cli("queue", *args)
        return status, re.sub(r"[\s│┃]+", " ", told + errors)

    return call


def on(server: ValkeyServer, use: Callable[[RedisQueue], Awaitable[T]]) -> T:
    """What ``use`` makes of the background queue."""

    async def opened() -> T:
        link = RedisLink(server.url)
        try:
            return await use(RedisQueue(link, BACKGROUND))
        finally:
            await link.close()

    return asyncio.run(opened())


async def bury(queue: RedisQueue) -> dict[str, list[str]]:
    """Two dead letters of ``acme``, one of ``other``."""
    turns = await fill(queue, {"acme": 2, "other": 1})
    await drain(queue, settle=lambda entry: Dead(f"no luck for {entry.tenant}"))
    return turns


async def fail(store: RedisConversationStore, turns: dict[str, list[str]]) -> None:
    """Give these turns the records that belong to dead letters."""
    for tenant, names in turns.items():
        for turn in names:
            request = a_request(is_background=True)
            await store.begin(a_begin(turn, tenant=tenant, request=request, new_line=True))
            failed = {"state": TurnState.FAILED, "items": [], "error_code": "overloaded"}
            await store.commit(a_commit(turn, tenant=tenant, **failed))


def buried(server: ValkeyServer) -> dict[str, list[str]]:
    """Dead letters with their failed turns."""

    async def make(queue: RedisQueue) -> dict[str, list[str]]:
        turns = await bury(queue)
        store = RedisConversationStore(server.url)
        await fail(store, turns)
        await store.close()
        return turns

    return on(server, make)


def records(server: ValkeyServer, turns: dict[str, list[str]]) -> list[TurnRecord]:
    """Of these turns."""

    async def read() -> list[TurnRecord]:
        store = RedisConversationStore(server.url)
        found = [await store.turn(tenant, turn) for tenant, names in turns.items() for turn in names]
        await store.close()
        return found

    return asyncio.run(read())


def test_the_list_has_a_row_for_each_queue(server: ValkeyServer, run: Run) -> None:
    """Waiting, tenants, oldest, in work, delayed, dead."""

    async def prepare(queue: RedisQueue) -> None:
        await fill(queue, {"acme": 9, "other": 1})
        first, second, _ = await queue.take_many("c", 3)
        await queue.settle(first, Retry(3600))
        await queue.settle(second, Dead("no"))

    on(server, prepare)
    status, told = run("list")
    assert status == 0
    assert " background 7 1 0 s 1 1 1 " in told
    assert " batch 0 0 0 s 0 0 0 " in told


def test_a_queue_is_shown_with_tenants_and_dead_letters(server: ValkeyServer, run: Run) -> None:
    """Who has how many, what died and why."""
    turns = on(server, bury)
    on(server, lambda queue: fill(queue, {"other": 3}))
    status, told = run("show", "background")
    assert status == 0
    assert "Queue background: 3 waiting, 0 in work, 0 delayed, 3 dead." in told
    assert " other 3 " in told
    assert all(f" 1 acme:{turn} no luck for acme " in told for turn in turns["acme"])


def test_dead_letters_of_one_tenant_are_shown(server: ValkeyServer, run: Run) -> None:
    """And no more than asked for."""
    on(server, bury)
    assert run("show", "background", "--tenant", "other")[1].count("no luck") == 1
    assert run("show", "background", "--limit", "2")[1].count("no luck") == 2


def test_one_dead_letter_is_replayed(server: ValkeyServer, run: Run) -> None:
    """By the name that `show` gave it, with its turn; a second time there is none."""
    turn = buried(server)["acme"][0]
    assert run("replay", "background", f"acme:{turn}") == (0, "1 dead letter is queued again. ")
    assert [record.state for record in records(server, {"acme": [turn]})] == [TurnState.QUEUED]
    assert [entry.turn for entry in on(server, drain)] == [turn]
    status, told = run("replay", "background", f"acme:{turn}")
    assert (status, told) == (2, f"No dead letter 'acme:{turn}' was found. ")


def test_all_dead_letters_of_a_tenant_or_of_all_are_replayed(server: ValkeyServer, run: Run) -> None:
    """What is replayed waits again."""
    turns = buried(server)
    assert run("replay", "background", "--tenant", "acme") == (0, "2 dead letters are queued again. ")
    assert run("replay", "background", "--all") == (0, "1 dead letter is queued again. ")
    assert {record.state for record in records(server, turns)} == {TurnState.QUEUED}
    assert len(on(server, drain)) == 3


def test_a_letter_whose_turn_cannot_be_opened_stays(server: ValkeyServer, run: Run) -> None:
    """Its reason is told, of one as an error; the others are queued again."""
    turns = buried(server)
    gone, other = turns["acme"]

    async def erase(_: RedisQueue) -> None:
        store = RedisConversationStore(server.url)
        await store.delete_turn("acme", gone)
        await store.close()

    on(server, erase)
    told = "1 dead letter is queued again. 1 cannot be: it was erased. "
    assert run("replay", "background", "--tenant", "acme") == (0, told)
    status, message = run("replay", "background", f"acme:{gone}")
    assert (status, message) == (2, f"acme:{gone} cannot be queued again: it was erased. ")
    assert [entry.turn for entry in on(server, drain)] == [other]
    assert len(on(server, lambda queue: queue.dead(tenant="acme"))) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["replay", "background"], "Name one dead letter, or give --tenant or --all."),
        (["replay", "background", "a:b", "--all"], "Name one dead letter, or give --tenant or --all."),
        (["replay", "background", "junk"], "No dead letter 'junk' was found."),
        (["show", "nightly"], "There is no queue 'nightly'; there are background and batch."),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(run: Run, args: list[str], message: str) -> None:
    """And the status tells a script."""
    assert run(*args) == (2, f"{message} ")
