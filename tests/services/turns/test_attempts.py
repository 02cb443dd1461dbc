"""One answer over several attempts."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from cluster.errors import (
    ChannelError,
    DeadlineExceededError,
    GenerationFailedError,
    NoReplicaError,
    OverloadedError,
    TurnError,
)
from cluster.protocol import Finish, FinishReason, GenerateRequest, Hint, SamplingParams, Served, Tokens
from services.backend.scripted import Fault, FaultKind, ScriptedBackend
from services.turns.attempts import Attempts
from services.turns.settings import TurnSettings
from tests.support.turn_kit import until

ANSWER = list(range(100, 120))
SETTINGS = TurnSettings(max_retry_s=0.0)
LOSSES = [FaultKind.LOST, FaultKind.CUT, FaultKind.GAP, FaultKind.MOVED]


def request(**changes) -> GenerateRequest:
    fields = {"attempt": 0, "request_id": "r", "tenant": "acme", "prompt_ids": [1, 2, 3]}
    return GenerateRequest(**fields, sampling=SamplingParams(max_new_tokens=50, seed=7), **changes)


def attempts_with(*faults: Fault, frame: int = 3, **changes) -> tuple[Attempts, ScriptedBackend]:
    backend = ScriptedBackend(ANSWER, frame=frame, faults=faults)
    return Attempts(backend, request(**changes), SETTINGS), backend


async def events_of(attempts: Attempts) -> list:
    return [event async for event in attempts.stream()]


def ids_of(events) -> list[int]:
    return [token_id for event in events if isinstance(event, Tokens) for token_id in event.ids]


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("after", [0, 1, 7, len(ANSWER)])
async def test_a_lost_replica_does_not_change_the_answer(kind, after):
    """Wherever the first attempt is lost, the ids are those of an undisturbed one, each once."""
    attempts, backend = attempts_with(Fault(kind, after))
    events = await events_of(attempts)
    assert ids_of(events) == attempts.ids == ANSWER
    assert isinstance(events[-1], Finish)
    assert attempts.moves == len(backend.requests) - 1 == 1


async def test_the_next_attempt_goes_on_where_the_last_one_was_lost():
    """It has all ids held, the same seed, a new name, no stale hint, and keeps away from the lost replica."""
    hint = Hint(rank=0, incarnation="replica-a", tokens=3)
    attempts, backend = attempts_with(Fault(FaultKind.LOST, 7), hint=hint)
    await events_of(attempts)
    first, second = backend.requests
    assert (first.output_ids, second.output_ids) == ([], ANSWER[:7])
    assert second.avoid == ("replica-a",)
    assert (first.hint, second.hint) == (hint, None)
    assert first.sampling == second.sampling
    assert first.attempt != second.attempt


async def test_the_fourth_loss_is_the_last():
    """After three moves a typed error ends the answer."""
    faults = [Fault(FaultKind.LOST, n) for n in range(5)]
    backend = ScriptedBackend(ANSWER, incarnations=[f"replica-{n}" for n in range(9)], faults=faults)
    attempts = Attempts(backend, request(), SETTINGS)
    with pytest.raises(TurnError) as caught:
        await events_of(attempts)
    assert isinstance(caught.value.__cause__, ChannelError)
    assert len(backend.requests) == 4


@pytest.mark.parametrize(
    ("kind", "error"), [(FaultKind.OVERLOADED, OverloadedError), (FaultKind.NO_REPLICA, NoReplicaError)]
)
async def test_a_refusal_before_anything_was_served_is_the_callers(kind, error):
    """It becomes 429 or 503, at once."""
    attempts, backend = attempts_with(Fault(kind))
    with pytest.raises(error):
        await events_of(attempts)
    assert len(backend.requests) == 1


async def test_a_replica_without_room_is_passed_over():
    """Another one may have room, whatever the routers knew."""
    backend = ScriptedBackend(ANSWER, full={"replica-a": 9.0})
    attempts = Attempts(backend, request(), SETTINGS)
    assert ids_of(await events_of(attempts)) == ANSWER
    assert [r.busy for r in backend.requests] == [(), ("replica-a",)]
    assert attempts.moves == 0


async def test_when_none_has_room_the_shortest_wait_is_told():
    """Each is asked once."""
    backend = ScriptedBackend(ANSWER, full={"replica-a": 9.0, "replica-b": 4.0})
    with pytest.raises(OverloadedError) as caught:
        await events_of(Attempts(backend, request(), SETTINGS))
    assert caught.value.retry_after_s == 4.0
    assert len(backend.requests) == 3


@pytest.mark.parametrize("kind", [FaultKind.OVERLOADED, FaultKind.NO_REPLICA, FaultKind.UNREACHABLE])
async def test_a_refusal_in_mid_answer_is_tried_again(kind):
    """An accepted turn waits for a place instead of failing."""
    attempts, backend = attempts_with(Fault(FaultKind.LOST, 5), Fault(kind))
    assert ids_of(await events_of(attempts)) == ANSWER
    assert len(backend.requests) == 3


async def test_a_channel_that_never_opens_ends_as_no_replica():
    """Nothing was said yet, so the caller may try the whole turn again."""
    attempts, backend = attempts_with(*[Fault(FaultKind.UNREACHABLE)] * 4)
    with pytest.raises(NoReplicaError):
        await events_of(attempts)
    assert len(backend.requests) == 4


async def test_with_nobody_else_left_the_lost_replica_is_asked_again():
    """A broken channel to the only replica that is alive does not end the turn."""
    backend = ScriptedBackend(ANSWER, incarnations=["only"], faults=[Fault(FaultKind.LOST, 5)])
    attempts = Attempts(backend, request(), SETTINGS)
    assert ids_of(await events_of(attempts)) == ANSWER
    assert [r.avoid for r in backend.requests] == [(), ("only",), ()]
    assert attempts.moves == 1


async def test_a_sequence_the_engine_gives_up_is_not_moved():
    """It would fail elsewhere too."""
    attempts, backend = attempts_with(Fault(FaultKind.FAILED, 5))
    with pytest.raises(GenerationFailedError, match="NaN"):
        await events_of(attempts)
    assert len(backend.requests) == 1


async def test_an_answer_lost_after_its_last_id_needs_no_other_replica():
    """All ids the turn may have are here: it ends as too long."""
    backend = ScriptedBackend(ANSWER, faults=[Fault(FaultKind.LOST, 4)])
    short = GenerateRequest(
        attempt=0, request_id="r", tenant="acme", prompt_ids=[1], sampling=SamplingParams(max_new_tokens=4)
    )
    events = await events_of(Attempts(backend, short, SETTINGS))
    assert ids_of(events) == ANSWER[:4]
    assert events[-1].reason is FinishReason.LENGTH
    assert len(backend.requests) == 1


async def test_closing_aborts_the_attempt_at_once():
    """A reader that stops reading frees the replica."""
    attempts, backend = attempts_with()
    async with aclosing(attempts.stream()) as events:
        assert isinstance(await anext(events), Served)
        assert isinstance(await anext(events), Tokens)
    assert backend.aborted == [backend.requests[0].attempt]


async def test_a_lost_attempt_is_aborted_before_the_next_begins():
    """Ids that do not follow on end their attempt; two never run for one turn."""
    attempts, backend = attempts_with(Fault(FaultKind.GAP, 5))
    await events_of(attempts)
    assert backend.aborted == [backend.requests[0].attempt]


async def test_cancelling_the_reader_aborts_a_waiting_attempt():
    """A client that leaves during prefill frees the replica too."""
    attempts, backend = attempts_with()
    backend.gate.clear()
    reader = asyncio.create_task(events_of(attempts))
    await until(lambda: attempts.served)
    reader.cancel()
    await asyncio.wait({reader})
    assert backend.aborted == [backend.requests[0].attempt]


async def test_a_turn_has_one_deadline_over_all_attempts():
    """Each attempt is given what is left, and time that is up ends the turn."""
    now = [0.0]
    backend = ScriptedBackend(ANSWER, frame=5, faults=[Fault(FaultKind.LOST, 10)])
    attempts = Attempts(backend, request(), TurnSettings(deadline_s=100), clock=lambda: now[0])

    async def read_slowly() -> None:
        async for event in attempts.stream():
            now[0] += 40 if isinstance(event, Tokens) else 0

    with pytest.raises(DeadlineExceededError):
        await read_slowly()
    assert [r.deadline_s for r in backend.requests] == [100, 20]


async def test_cached_tokens_are_those_of_the_first_attempt():
    """A move computes the prompt again; that says nothing about what the turn found."""
    attempts, _ = attempts_with(Fault(FaultKind.LOST, 5))
    await events_of(attempts)
    assert attempts.cached_tokens == 0
