"""A replica's turns over a real engine thread and a real channel, without Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest

from cluster.channel.listener import ChannelListener, Lost
from cluster.engine.async_engine import ThreadedEngine
from cluster.engine.plan import StepPlan, StepResult
from cluster.protocol import Finish, FinishReason, Forgotten, GenerateRequest, Label, Served, Tokens
from cluster.replica.forgetting import Emptied, decode_emptied, decode_labels, encode_emptied, encode_labels
from cluster.replica.outcome import Done, Refused
from cluster.replica.turns import ReplicaTurns
from tests.fakes.engine_driver import CONFIG, make_request
from tests.fakes.fake_runner import FakeRunner, expected_output
from tests.support.turn_kit import until

SECRET = b"a secret of this cluster"
PROMPT = [3, 4, 5, 6, 7]
X, Y = (Label(tenant="a", pin_key=pin_key) for pin_key in "xy")


class GatedRunner(FakeRunner):
    """Computes while the gate is open; ``waits`` at a closed one."""

    def __init__(self) -> None:
        super().__init__(num_pages=64, page_size=CONFIG.page_size)
        self.gate = threading.Event()
        self.gate.set()
        self.waits = False

    def run(self, plan: StepPlan) -> StepResult:
        self.waits = not self.gate.is_set()
        self.gate.wait()
        return super().run(plan)


class Pair:
    """A replica, and the owner of its turns."""

    def __init__(
        self, runner: GatedRunner, turns: ReplicaTurns, engine: ThreadedEngine, listener: ChannelListener, port: int
    ) -> None:
        self.runner = runner
        self.gate = runner.gate
        self.turns = turns
        self.engine = engine
        self.listener = listener
        self.port = port

    def addressed(self, request: GenerateRequest) -> GenerateRequest:
        """The request, answered to this owner."""
        return msgspec.structs.replace(request, reply_to=("127.0.0.1", self.port))

    def generate(self, request: GenerateRequest) -> asyncio.Task[Done | Refused]:
        """The unary call of an attempt."""
        return asyncio.create_task(self.turns.generate(self.addressed(request), rank=1, why="pinned"))


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Both ends, started and stopped."""
    runner = GatedRunner()
    engine = ThreadedEngine(lambda: runner, CONFIG)
    turns = ReplicaTurns(engine, incarnation="r1", secret=SECRET)
    listener = ChannelListener(name="owner", secret=SECRET, on_silent=lambda _: None)
    port = await listener.start("127.0.0.1")
    await turns.start()
    yield Pair(runner, turns, engine, listener, port)
    runner.gate.set()
    await turns.stop()
    await listener.stop()


async def test_ids_travel_on_the_channel_and_the_call_answers_how_it_ended(pair: Pair) -> None:
    """Served first, then ids without a gap, then the same finish as the call's."""
    request = make_request(1, PROMPT)
    mailbox = pair.listener.open(1)
    call = pair.generate(request)
    assert await mailbox.get() == Served(rank=1, incarnation="r1", why="pinned")
    ids: list[int] = []
    while isinstance(item := await mailbox.get(), Tokens):
        ids += item.ids
    assert isinstance(item, Finish)
    assert await call == Done(item)
    assert ids == expected_output(request, vocab_size=50)


async def test_a_request_that_cannot_fit_is_refused_before_anything_is_sent(pair: Pair) -> None:
    """The answer names the error and its numbers; the owner's mailbox stays empty."""
    mailbox = pair.listener.open(2)
    outcome = await pair.generate(make_request(2, PROMPT, max_new_tokens=CONFIG.context_length))
    assert isinstance(outcome, Refused)
    assert outcome.fault.kind == "ContextLengthExceededError"
    assert outcome.fault.values["context_length"] == CONFIG.context_length
    assert mailbox.connection is None


async def test_an_owner_that_cannot_be_reached_costs_no_prefill(pair: Pair) -> None:
    """The dial fails first, and says where."""
    request = msgspec.structs.replace(make_request(3, PROMPT), reply_to=("127.0.0.1", 1))
    outcome = await pair.turns.generate(request, rank=0, why="placed")
    assert isinstance(outcome, Refused)
    assert outcome.fault.kind == "ChannelError"
    assert pair.engine.stats().prompt_tokens == 0


async def test_an_owner_that_gives_up_ends_the_attempt(pair: Pair) -> None:
    """An abort on the channel frees the pages, and the call answers that it was aborted."""
    pair.gate.clear()
    mailbox = pair.listener.open(4)
    call = pair.generate(make_request(4, PROMPT, max_new_tokens=80))
    await mailbox.get()
    mailbox.close()
    await until(lambda: pair.turns.aborts == 1)
    pair.gate.set()
    outcome = await call
    assert isinstance(outcome, Done)
    assert outcome.finish.reason is FinishReason.ABORTED
    assert pair.engine.stats().pages_active == 0
    assert pair.engine.stats().steps <= 2


async def test_a_cancelled_call_ends_the_attempt(pair: Pair) -> None:
    """Serve cancels the call when the client has gone; nothing runs on."""
    pair.gate.clear()
    mailbox = pair.listener.open(5)
    call = pair.generate(make_request(5, PROMPT, max_new_tokens=80))
    await mailbox.get()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    pair.gate.set()
    await until(lambda: pair.engine.stats().running == 0 and pair.engine.stats().pages_active == 0)
    assert pair.engine.stats().steps <= 2


async def test_a_long_step_is_no_silence(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the engine computes for many times the limit, the replica's beat goes on, and the turn with it."""
    monkeypatch.setattr("cluster.channel.dialer.BEAT_INTERVAL_S", 0.02)
    silent: list[str] = []
    listener = ChannelListener(name="strict", secret=SECRET, on_silent=silent.append, silence_s=0.3)
    request = make_request(1, PROMPT)
    reply_to = ("127.0.0.1", await listener.start("127.0.0.1"))
    mailbox = listener.open(1)
    pair.gate.clear()
    call = asyncio.create_task(
        pair.turns.generate(msgspec.structs.replace(request, reply_to=reply_to), rank=1, why="pinned")
    )
    assert isinstance(await mailbox.get(), Served)
    await asyncio.sleep(1.0)
    pair.gate.set()
    assert isinstance(await mailbox.get(), Tokens)
    assert isinstance(await call, Done)
    assert silent == []
    await listener.stop()


async def test_a_stalled_engine_sends_its_turns_elsewhere(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner hears of it at once, and new attempts are refused before anything is sent."""
    mailbox = pair.listener.open(1)
    call = pair.generate(make_request(1, PROMPT, max_new_tokens=50))
    await mailbox.get()
    monkeypatch.setattr(pair.engine, "is_stalled", lambda: True)
    while not isinstance(item := await mailbox.get(), Lost):
        assert isinstance(item, Tokens | Finish)
    refused = await pair.generate(make_request(2, PROMPT))
    assert isinstance(refused, Refused)
    assert "engine_stalled" in refused.fault.message
    await call


async def test_several_labels_are_forgotten_at_once(pair: Pair) -> None:
    """The answer counts the pages of all of them."""
    for attempt, pin_key in enumerate("xyz"):
        pair.listener.open(attempt)
        assert isinstance(await pair.generate(make_request(attempt, [attempt] * 9, pin_key=pin_key)), Done)
    assert await pair.turns.forget([X, Y]) == Forgotten(dropped=8)
    assert pair.engine.stats().pages_cached == 4


async def test_who_asks_a_hanging_engine_to_forget_does_not_wait_for_ever(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages go all the same, when the step is over."""
    monkeypatch.setattr("cluster.replica.turns.FORGET_S", 0.01)
    mailbox = pair.listener.open(1)
    pair.gate.clear()
    call = pair.generate(make_request(1, [1] * 9, pin_key="x"))
    assert isinstance(await mailbox.get(), Served)
    await until(lambda: pair.runner.waits)  # a step that has not begun would forget before it
    with pytest.raises(TimeoutError):
        await pair.turns.forget([X])
    pair.gate.set()
    assert isinstance(await call, Done)
    await until(lambda: pair.engine.stats().pages_active == 0)
    assert pair.engine.stats().pages_cached == 0


def test_labels_and_answers_survive_the_journey() -> None:
    """Both are bytes on the way."""
    assert decode_labels(encode_labels([X, Y])) == [X, Y]
    emptied = Emptied(incarnation="r1", forgotten=Forgotten(dropped=3, held=1))
    assert decode_emptied(encode_emptied("r1", emptied.forgotten)) == emptied
