"""A replica's turns when the process of its engine dies: their owners go on elsewhere at once."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from pathlib import Path

import msgspec
import pytest

from cluster.channel.listener import ChannelListener
from cluster.engine.process.client import ProcessEngine
from cluster.protocol import Finish, FinishReason, Served, Tokens
from cluster.replica.outcome import Done, Refused
from cluster.replica.turns import ReplicaTurns
from services.backend.local import LocalBackend
from services.turns.attempts import Attempts
from services.turns.settings import TurnSettings
from tests.fakes.engine_driver import CONFIG, make_request
from tests.fakes.fake_runner import expected_output
from tests.fakes.steered_engine import SteeredConfig, Steering, steered_engine

SECRET = b"a secret of this cluster"


async def test_a_killed_engine_sends_its_turns_elsewhere(tmp_path: Path) -> None:
    """The owner is told that the attempt has moved; the call ends, so that Serve may end the replica; none is taken."""
    steering = Steering(tmp_path / "steering", is_new=True)
    engine = steered_engine("process", SteeredConfig(CONFIG, str(tmp_path / "steering")))
    assert isinstance(engine, ProcessEngine)
    turns = ReplicaTurns(engine, incarnation="r1", secret=SECRET)
    listener = ChannelListener(name="owner", secret=SECRET, on_silent=lambda _: None)
    reply_to = ("127.0.0.1", await listener.start("127.0.0.1"))
    await turns.start()
    request = msgspec.structs.replace(make_request(1, [3, 4], max_new_tokens=50), reply_to=reply_to)
    mailbox = listener.open(1)
    steering.hold()
    steering.allow(3)
    call = asyncio.create_task(turns.generate(request, rank=0, why="placed"))
    assert isinstance(await mailbox.get(), Served)
    ids = [token for _ in range(3) for token in (await mailbox.get()).ids]
    os.kill(engine.pid or 0, signal.SIGKILL)
    end = await mailbox.get()
    assert isinstance(end, Finish)
    assert (end.reason, end.total, ids) == (FinishReason.MOVED, 3, expected_output(request)[:3])
    assert await call == Done(end)
    refused = await turns.generate(msgspec.structs.replace(request, attempt=2), rank=0, why="placed")
    assert isinstance(refused, Refused)
    assert "engine_stalled for inf s" in refused.fault.message
    assert engine.stalled_for_s() == math.inf
    await turns.stop()
    await listener.stop()


@pytest.mark.parametrize("survivor", ["thread", "process"])
async def test_an_answer_whose_engine_dies_is_the_same_answer(tmp_path: Path, survivor: str) -> None:
    """The turn goes on with another engine, of whichever kind, at the same index and with the same draws."""
    steerings = [Steering(tmp_path / name, is_new=True) for name in ("first", "second")]
    doomed = steered_engine("process", SteeredConfig(CONFIG, str(tmp_path / "first")))
    other = steered_engine(survivor, SteeredConfig(CONFIG, str(tmp_path / "second")))
    assert isinstance(doomed, ProcessEngine)
    backends = iter([LocalBackend(doomed), LocalBackend(other)])
    open_backends = [await started(next(backends)) for _ in range(2)]
    steerings[0].hold()
    steerings[0].allow(7)
    request = make_request(1, [5, 6, 7], max_new_tokens=30, seed=11)
    attempts = Attempts(InTurn(open_backends), request, TurnSettings(max_retry_s=0.0))
    async for event in attempts.stream():
        if isinstance(event, Tokens) and event.start + len(event.ids) == 7:
            os.kill(doomed.pid or 0, signal.SIGKILL)
    assert attempts.ids == expected_output(request)
    assert attempts.moves == 1
    for backend in open_backends:
        await backend.stop()


class InTurn:
    """A backend that gives each attempt to the next of several."""

    def __init__(self, backends: list[LocalBackend]) -> None:
        self._backends = iter(backends)

    def stream(self, request):
        return next(self._backends).stream(request)


async def started(backend: LocalBackend) -> LocalBackend:
    """The backend, started."""
    await backend.start()
    return backend
