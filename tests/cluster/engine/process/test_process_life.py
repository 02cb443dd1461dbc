"""Life and death of an engine's process: it is killed, stopped, left alone, and never outlives its parent."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cluster.engine.process import vitals
from cluster.engine.process.client import ProcessEngine
from cluster.errors import CheckpointError, ClusterError, NoReplicaError
from cluster.protocol import FinishReason
from services.processes import identify
from tests.fakes.engine_driver import CONFIG, make_request
from tests.fakes.fake_runner import expected_output
from tests.fakes.listener import Listener
from tests.fakes.steered_engine import SteeredConfig, Steering, steered_engine
from tests.support.waiting import wait_until

FAKES = "tests.fakes.steered_engine"

PARENT = """
    import asyncio, sys
    from tests.fakes.engine_driver import CONFIG, make_request
    from tests.fakes.steered_engine import SteeredConfig, steered_engine

    async def main(steering, how):
        engine = steered_engine("process", SteeredConfig(CONFIG, steering))
        starting = asyncio.create_task(engine.start(lambda _: None))
        while not engine.pid:
            await asyncio.sleep(0.001)
        if how == "loading":
            print(engine.pid, flush=True)
        await starting
        await engine.submit(make_request(1, [1], max_new_tokens=90))
        print(engine.pid, flush=True)
        if how != "leave":
            await asyncio.sleep(600)

    asyncio.run(main(*sys.argv[1:]))
"""


class Rig:
    """A started engine, its sink, and the hand on its runner."""

    def __init__(self, path: Path) -> None:
        self.steering = Steering(path, is_new=True)
        self.listener = Listener()
        engine = steered_engine("process", SteeredConfig(CONFIG, str(path)))
        assert isinstance(engine, ProcessEngine)
        self.engine = engine

    @property
    def pid(self) -> int:
        """Of the child."""
        assert self.engine.pid is not None
        return self.engine.pid


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A started engine."""
    rig = Rig(tmp_path / "steering")
    await rig.engine.start(rig.listener)
    yield rig
    rig.steering.allow()
    await rig.engine.stop()
    assert identify(rig.pid) is None


async def until(condition) -> None:
    """Wait for a condition that no event tells of."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- no event tells
            await asyncio.sleep(0.01)


def descriptors(pid: int) -> list[str]:
    """What a process has open beside its standard streams."""
    names = []
    for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # the one through which the folder was listed
            names += [str(entry.readlink())] if int(entry.name) > 2 else []
    return names


def shared_memories() -> int:
    """How many engines' memories this process has mapped."""
    return sum("engine-vitals" in name for name in descriptors(os.getpid()))


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has waited for yet counts."""
    return identify(pid) is None


async def test_a_killed_engine_moves_its_attempts(rig: Rig) -> None:
    """Every open attempt ends as moved, with the ids it had; the engine has died and takes nothing."""
    rig.steering.hold()
    requests = [make_request(i, [i, 2], max_new_tokens=40, seed=i) for i in range(3)]
    await rig.engine.submit(requests[0])
    rig.steering.allow(5)
    await rig.listener.until(lambda: len(rig.listener.ids.get(0, [])) == 4 + 1)
    await rig.steering.held()  # between two steps the engine would accept what comes
    waiting = [asyncio.create_task(rig.engine.submit(request)) for request in requests[1:]]
    await asyncio.sleep(0)
    os.kill(rig.pid, signal.SIGKILL)
    finish = await rig.listener.finish(0)
    assert (finish.reason, finish.error) == (FinishReason.MOVED, "engine_crashed")
    assert (finish.total, finish.usage.output_tokens, finish.usage.prompt_tokens) == (5, 5, 2)
    assert rig.listener.ids[0] == expected_output(requests[0])[:5]
    assert [type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == [NoReplicaError] * 2
    assert (rig.engine.is_stalled(), rig.engine.stalled_for_s()) == (True, math.inf)
    with pytest.raises(NoReplicaError):
        await rig.engine.submit(make_request(9, [1]))
    await rig.engine.abort(0)


async def test_an_engine_killed_under_load_leaves_no_attempt_open(rig: Rig) -> None:
    """Whatever it was doing, each attempt has a last event, and what had come before it is right."""
    requests = [make_request(i, [i % 7, 2], max_new_tokens=60, seed=i) for i in range(40)]
    rig.steering.hold()
    rig.steering.allow(150)  # too few for all
    await asyncio.gather(*[rig.engine.submit(request) for request in requests])
    await rig.listener.until(lambda: rig.listener.calls > 20)
    os.kill(rig.pid, signal.SIGKILL)
    for request in requests:
        finish = await rig.listener.finish(request.attempt)
        ids = rig.listener.ids.get(request.attempt, [])
        assert finish.total == len(ids)
        assert ids == expected_output(request)[: len(ids)]
    assert FinishReason.MOVED in {finish.reason for finish in rig.listener.finishes.values()}


async def test_an_engine_stopped_in_a_step_stalls_and_can_be_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's time goes on although nobody is there to tell it; stop kills what does not move."""
    rig.steering.hold()
    await rig.engine.submit(make_request(1, [1], max_new_tokens=40))
    await rig.steering.held()
    os.kill(rig.pid, signal.SIGSTOP)
    assert not rig.engine.is_stalled()
    begun_s = rig.engine.stalled_for_s()
    await until(lambda: rig.engine.stalled_for_s() > begun_s + 0.05)
    rig.engine._times._slots[1] = 0.0  # the step is overdue: a minute has passed
    assert rig.engine.is_stalled()
    await rig.engine.stop()
    assert rig.listener.finishes[1].reason is FinishReason.ABORTED
    assert is_gone(rig.pid)


async def test_an_engine_stopped_between_steps_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is under way, but the process does not come round; when it goes on, all is well again."""
    monkeypatch.setattr(vitals, "SILENCE_S", 1.0)
    rig = Rig(tmp_path / "steering")
    await rig.engine.start(rig.listener)
    os.kill(rig.pid, signal.SIGSTOP)
    await until(rig.engine.is_stalled)
    assert 1.0 < rig.engine.stalled_for_s() < math.inf
    os.kill(rig.pid, signal.SIGCONT)
    await until(lambda: not rig.engine.is_stalled())
    await rig.engine.submit(make_request(1, [1]))
    assert (await rig.listener.finish(1)).reason is FinishReason.LENGTH
    await rig.engine.stop()


async def test_signals_to_all_processes_alike_are_left_to_the_parent(rig: Rig) -> None:
    """Ctrl-C, a hang-up and TERM do not end the engine under its parent's turns; it is in no terminal's group."""
    assert os.getsid(rig.pid) == rig.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(rig.pid, number)
    request = make_request(1, [1], max_new_tokens=20)
    await rig.engine.submit(request)
    await rig.listener.finish(1)
    assert rig.listener.ids[1] == expected_output(request)


async def test_the_child_has_only_what_it_was_given(rig: Rig, tmp_path: Path) -> None:
    """Its link, the shared memory and what it opens itself; nothing of Ray's would come along."""
    with (tmp_path / "stranger").open("w") as stranger:
        os.set_inheritable(stranger.fileno(), True)
        other = Rig(tmp_path / "other")
        await other.engine.start(other.listener)
        held = descriptors(other.pid)
        await other.engine.stop()
    steering = str(tmp_path / "other")
    assert {name.partition(":")[0] for name in held} == {"socket", "anon_inode", "/memfd", steering}


async def test_nothing_of_an_ended_engine_stays_in_the_parent(tmp_path: Path) -> None:
    """No descriptor and no shared memory, however it ended."""
    gc.collect()  # what other tests have left
    memories, before = shared_memories(), len(descriptors(os.getpid()))
    for is_killed in (False, True):
        rig = Rig(tmp_path / "steering")
        await rig.engine.start(rig.listener)
        assert shared_memories() == memories + 1
        if is_killed:
            os.kill(rig.pid, signal.SIGKILL)
            await until(rig.engine.is_stalled)
        await rig.engine.stop()
        assert is_gone(rig.pid)
        assert shared_memories() == memories
        del rig
    gc.collect()
    assert len(descriptors(os.getpid())) == before


async def test_an_engine_killed_while_it_loads_says_how(tmp_path: Path) -> None:
    """The start fails in one sentence that names the signal."""
    rig = Rig(tmp_path / "steering")
    rig.steering.hold_loading()
    starting = asyncio.create_task(rig.engine.start(rig.listener))
    await until(lambda: rig.engine.pid)
    os.kill(rig.pid, signal.SIGKILL)
    with pytest.raises(ClusterError, match=r"ended while it loaded .*SIGKILL, as for want of memory"):
        await starting
    assert is_gone(rig.pid)


async def test_a_factory_that_raises_is_heard() -> None:
    """Not only the loading, also what comes before it."""
    engine = ProcessEngine(f"{FAKES}:impossible", b"", max_waiting=1)
    with pytest.raises(CheckpointError, match=r"config\.json is none"):
        await engine.start(Listener())


@pytest.mark.parametrize(("how", "number"), [("serve", signal.SIGKILL), ("loading", signal.SIGKILL), ("leave", None)])
def test_the_engine_never_outlives_its_parent(tmp_path: Path, how: str, number: int | None) -> None:
    """Killed while it serves, killed while it loads, or gone without a word: the engine's process is gone as well."""
    steering = Steering(tmp_path / "steering", is_new=True)
    if how == "loading":
        steering.hold_loading()
    script = "\n".join(line[4:] for line in PARENT.splitlines())
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "steering"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert identify(pid) is not None or how == "leave"
        if number is not None:
            parent.send_signal(number)
    wait_until(lambda: is_gone(pid), what="the child's end")


async def test_a_parent_that_does_not_read_loses_nothing_and_is_spared_the_flood(tmp_path: Path) -> None:
    """The engine goes on meanwhile; what waited comes joined together, far fewer messages than steps."""
    rig = Rig(tmp_path / "steering")
    rig.engine = ProcessEngine(
        f"{FAKES}:make",
        msgspec.json.encode(SteeredConfig(replace(CONFIG, max_waiting=400), str(tmp_path / "steering"))),
        max_waiting=400,
    )
    await rig.engine.start(rig.listener)
    rig.steering.hold()
    requests = [make_request(i, [i % 64, 2], max_new_tokens=60, seed=i) for i in range(150)]
    first = rig.engine.submit(requests[0])
    await first
    submits = [asyncio.create_task(rig.engine.submit(request)) for request in requests[1:]]
    await until(lambda: rig.steering.allow(1) or all(submit.done() for submit in submits))
    calls, transport = rig.listener.calls, rig.engine._link._transport
    transport.pause_reading()
    rig.steering.allow()
    steps = 150 * 60 / CONFIG.max_num_seqs
    await until(lambda: rig.steering.steps() >= steps and rig.engine.stalled_for_s() == 0)
    transport.resume_reading()
    for request in requests:
        assert (await rig.listener.finish(request.attempt)).reason is FinishReason.LENGTH
        assert rig.listener.ids[request.attempt] == expected_output(request)
    assert rig.listener.calls - calls < rig.engine.stats().steps / 2
    await rig.engine.stop()
