"""The checker has nothing to say of a sound cluster, and finds each bug that is put into one.

The clients and the checker are those of the long run; the cluster is small, in this process, over a real server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from services.conversations import ids
from services.conversations.redis_store import RedisConversationStore
from services.conversations.store import Commit, ConversationStore, Reply, Verdict
from services.gateway.rendering.responses import ResponseRendering
from services.gateway.schemas.response import StreamEvent
from services.ports import unused_port
from services.turns import owner
from services.turns.events import EventKind, StoredTurn, TurnEvent
from services.turns.journal import Ticket
from services.turns.naming import name_turn
from services.turns.reading import Reading
from tests.chaos.house import House, a_house
from tests.chaos.talker import KINDS
from tests.support.proxy import Flow
from tests.support.valkey import running_valkey

pytestmark = pytest.mark.valkey
LONG = pytest.mark.heavy

STOP_S = 3.0  # three leases
STEADY = {"stream": 1}  # clients that are there when the owner of their turn is stopped
DROPPING = {"stream dropped": 1}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """On a server of its own."""
    with running_valkey(port=unused_port()) as server:
        async with a_house(server, tmp_path) as house:
            yield house


async def stop_and_wake(house: House) -> None:
    """Each gateway is stopped in its turns, for longer than a lease, and goes on."""
    for gateway in house.gateways:
        await asyncio.sleep(0.6)
        await gateway.way.set(Flow.STALLED)
        await asyncio.sleep(STOP_S)
        await gateway.way.set(Flow.PASSES)
    await asyncio.sleep(0.6)


async def test_a_sound_house_has_no_faults(house: House) -> None:
    """Turns are taken over, streams are picked up or diverge, and all is as the clients saw it."""
    assert await house.faults(lambda: stop_and_wake(house)) == []
    assert sum(gateway.turns.metrics.resumes for gateway in house.gateways) > 0
    assert house.dispatcher.turns.metrics.adoptions > 0


def owners_ignore_their_lease(patch: pytest.MonkeyPatch) -> None:
    """One that was stopped goes on to the end, although another one has taken its turn over."""
    settle = owner._settle
    patch.setattr(Ticket, "can_emit", lambda _: True)
    patch.setattr(Ticket, "fail", lambda *_: None)
    patch.setattr(owner, "_settle", lambda _, *rest: settle(Reply(Verdict.OK), *rest))


def commits_append_twice(patch: pytest.MonkeyPatch) -> None:
    """As where a commit without a reply is simply sent again."""
    commit_once = RedisConversationStore.commit

    async def commit(self: RedisConversationStore, commit: Commit) -> Reply:
        again = [msgspec.structs.replace(item, id=ids.new_item(commit.conversation)) for item in commit.items]
        return await commit_once(self, replace(commit, items=[*again, *commit.items]))

    patch.setattr(RedisConversationStore, "commit", commit)


def readers_repeat_an_event(patch: pytest.MonkeyPatch) -> None:
    """A stream that is picked up begins with the event that its cursor names."""
    make = ResponseRendering.__init__

    def init(self: ResponseRendering, *args: object, after: int = -1, **options: object) -> None:
        make(self, *args, after=after - (after > 0), **options)  # type: ignore[arg-type]

    patch.setattr(ResponseRendering, "__init__", init)


def readers_skip_an_event(patch: pytest.MonkeyPatch) -> None:
    """A stream that is picked up begins with the event behind the next one."""
    framed = ResponseRendering._framed

    def frame(self: ResponseRendering, event: TurnEvent, shape: StreamEvent) -> bytes:
        is_next = self._after >= 0 and event.seq == self._after + 1 and event.kind is EventKind.TEXT_DELTA
        return b"" if is_next else framed(self, event, shape)

    patch.setattr(ResponseRendering, "_framed", frame)


def readers_trust_their_cursor(patch: pytest.MonkeyPatch) -> None:
    """A stream is picked up behind an event that the answer does not have, for an adopter has said something else."""
    patch.setattr(Reading, "_check", lambda *_: None)


def keys_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """A turn that is sent again is a new one."""

    async def name_anew(store: ConversationStore, turn: StoredTurn) -> tuple[str, bool]:
        return await name_turn(store, replace(turn, idempotency=None))

    patch.setattr("services.turns.service.name_turn", name_anew)


@pytest.mark.parametrize(
    ("bug", "kinds", "found"),
    [
        pytest.param(owners_ignore_their_lease, STEADY, "was told a text at the end that is not kept", marks=LONG),
        (commits_append_twice, KINDS, "its question is kept 2 times"),
        pytest.param(readers_repeat_an_event, DROPPING, "its client was told", marks=LONG),
        (readers_skip_an_event, DROPPING, "its client was told"),
        pytest.param(readers_trust_their_cursor, STEADY, "are not the text that is kept", marks=LONG),
        (keys_are_ignored, KINDS, "nobody asked for it"),
    ],
    ids=["lease", "append", "repeat", "gap", "splice", "keys"],
)
async def test_a_bug_is_found(
    house: House,
    monkeypatch: pytest.MonkeyPatch,
    bug: Callable[[pytest.MonkeyPatch], None],
    kinds: Mapping[str, int],
    found: str,
) -> None:
    """Each makes a fault of its own kind; what it spoils besides may be many things."""
    bug(monkeypatch)
    faults = await house.faults(lambda: stop_and_wake(house), kinds, settle_s=1.0)
    assert any(found in fault for fault in faults), faults
