"""Messages survive any cutting of the stream, and a backlog keeps every id in its place."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.client import EngineStats, StepOutput
from cluster.engine.process.backlog import Backlog
from cluster.engine.process.messages import (
    Abort,
    Accepted,
    Begin,
    Command,
    Forget,
    Forgot,
    Report,
    Started,
    Step,
    Stop,
    Submit,
    Withdraw,
    commands,
    encode_frame,
    reports,
)
from cluster.engine.tenant_use import TenantUse
from cluster.protocol import Finish, FinishReason, Forgotten, Label, Logprobs, Tokens, Usage
from tests.fakes.engine_driver import make_request

END = Finish(
    reason=FinishReason.STOP, total=3, usage=Usage(prompt_tokens=1, cached_tokens=0, output_tokens=3), error=""
)
COMMANDS: list[Command] = [
    Begin(b"{}"),
    Submit(7, make_request(2**64 - 1, [1, 2, 3], output_ids=[4], deadline_s=2.0)),
    Withdraw(7),
    Abort(2**64 - 1),
    Forget(8, Label(tenant="acme", pin_key="x")),
    Stop(),
]
REPORTS: list[Report] = [
    Started(),
    Accepted(7),
    Forgot(8, Forgotten(dropped=5, held=1)),
    Step([(2**64 - 1, Tokens(start=0, ids=[5], cached_tokens=2)), (3, END)], EngineStats(steps=9, prefill_rate=0.5), 1),
    Step([], EngineStats(), 0, {"acme": TenantUse(1, 2, 3, 4, 5), "other": TenantUse()}),
    Step([], EngineStats(), 0),
]


@given(cuts=st.lists(st.integers(1, 60), max_size=30))
def test_messages_come_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    """In order, equal to what was sent, and none before its last byte."""
    for messages, reader in ((COMMANDS, commands()), (REPORTS, reports())):
        stream = b"".join(encode_frame(message) for message in messages)
        bounds = sorted({min(sum(cuts[: i + 1]), len(stream)) for i in range(len(cuts))} | {0, len(stream)})
        pieces = [stream[begin:end] for begin, end in pairwise(bounds)]
        assert [message for piece in pieces for message in reader.feed(piece)] == messages


def test_what_is_no_message_is_refused() -> None:
    """A report where a command belongs is as wrong as noise."""
    for body in (encode_frame(Started()), b"\x01\x00\x00\x00\xc1"):
        with pytest.raises(msgspec.DecodeError):
            list(commands().feed(body))


@st.composite
def steps(draw: st.DrawFn) -> list[list[StepOutput]]:
    """Steps of up to three attempts, each of them one id a step, some with logprobs, until it ends."""
    with_logprobs = draw(st.sets(st.integers(0, 2)))
    lengths = [draw(st.integers(0, 6)) for _ in range(3)]
    result: list[list[StepOutput]] = []
    for index in range(max(lengths) + 1):
        outputs: list[StepOutput] = []
        for attempt, length in enumerate(lengths):
            logprobs = [Logprobs(drawn=-float(index))] if attempt in with_logprobs else None
            if index < length:
                first = 0 if index == 0 else None
                outputs.append((attempt, Tokens(start=index, ids=[index], cached_tokens=first, logprobs=logprobs)))
            elif index == length:
                outputs.append((attempt, END))
        result.append(outputs)
    return result


def flat(outputs: list[StepOutput], attempt: int) -> list[object]:
    """Everything one attempt was told, id by id."""
    told: list[object] = []
    for owner, event in outputs:
        if owner != attempt:
            continue
        if isinstance(event, Finish):
            told.append(event)
            continue
        for place, token in enumerate(event.ids):
            cached = event.cached_tokens if place == 0 else None
            told.append((event.start + place, token, cached, event.logprobs and event.logprobs[place]))
    return told


@given(steps(), st.data())
def test_a_backlog_loses_nothing_and_holds_one_run_per_attempt(given_steps: list[list[StepOutput]], data) -> None:
    """Taken whenever, the parts together tell each attempt what the steps told it; events given stay as they are."""
    backlog, taken = Backlog(), list[StepOutput]()
    before = msgspec.json.encode(given_steps)
    for outputs in given_steps:
        backlog.add(outputs)
        if data.draw(st.booleans()):
            part = backlog.take()
            assert len(part) <= 2 * 3  # a run of ids and an end for each
            assert not backlog
            taken += part
    taken += backlog.take()
    whole = [output for outputs in given_steps for output in outputs]
    for attempt in range(3):
        assert flat(taken, attempt) == flat(whole, attempt)
    assert msgspec.json.encode(given_steps) == before
