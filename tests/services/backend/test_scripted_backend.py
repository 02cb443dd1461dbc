"""The scripted backend keeps the seam's promises, and breaks them only when told to."""

from __future__ import annotations

from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ChannelError, NoReplicaError, OverloadedError
from cluster.protocol import Finish, FinishReason, GenerateRequest, Hint, Label, SamplingParams, Served, Tokens
from services.backend.base import Erased
from services.backend.scripted import Fault, FaultKind, ScriptedBackend


def request(*, limit: int = 100, **changes) -> GenerateRequest:
    fields = {"attempt": 1, "request_id": "r", "tenant": "acme", "prompt_ids": [1, 2, 3]} | changes
    return GenerateRequest(**fields, sampling=SamplingParams(max_new_tokens=limit))


async def events_of(backend: ScriptedBackend, asked: GenerateRequest) -> list:
    return [event async for event in backend.stream(asked)]


@given(st.lists(st.integers(0, 99), max_size=20), st.integers(1, 5), st.integers(0, 20), st.integers(1, 25))
async def test_an_attempt_is_served_then_tokens_without_gaps_then_one_finish(answer, frame, held, limit):
    """Whatever the frame, the limit and the ids held already."""
    held = min(held, len(answer), limit)
    asked = request(limit=limit, output_ids=answer[:held])
    served, *tokens, finish = await events_of(ScriptedBackend(answer, frame=frame), asked)
    ids = list(answer[:held])
    for event in tokens:
        assert event.start == len(ids)
        ids += event.ids
    assert isinstance(served, Served)
    assert ids == answer[:limit]
    assert finish.total == len(ids)
    assert finish.reason is (FinishReason.STOP if len(answer) < limit else FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.OVERLOADED, OverloadedError),
        (FaultKind.NO_REPLICA, NoReplicaError),
        (FaultKind.UNREACHABLE, ChannelError),
    ],
)
async def test_a_refusal_comes_before_anything_is_served(kind, error):
    """And only the first attempt meets it."""
    backend = ScriptedBackend([5], faults=[Fault(kind)])
    with pytest.raises(error):
        await anext(backend.stream(request()))
    assert isinstance((await events_of(backend, request()))[-1], Finish)


@pytest.mark.parametrize(
    ("kind", "reason"), [(FaultKind.MOVED, FinishReason.MOVED), (FaultKind.FAILED, FinishReason.FAILED)]
)
async def test_an_attempt_can_end_early_by_a_finish(kind, reason):
    """With the ids so far."""
    finish = (await events_of(ScriptedBackend([5, 6, 7], faults=[Fault(kind, 2)]), request()))[-1]
    assert (finish.reason, finish.total) == (reason, 2)


async def test_a_lost_channel_keeps_the_ids_before_it():
    """They were yielded; then the error is raised."""
    events = ScriptedBackend([5, 6, 7], faults=[Fault(FaultKind.LOST, 2)]).stream(request())
    assert isinstance(await anext(events), Served)
    assert [(await anext(events)).ids for _ in range(2)] == [[5], [6]]
    with pytest.raises(ChannelError):
        await anext(events)


async def test_a_closed_attempt_is_aborted_and_a_finished_one_is_not():
    """The list of aborted attempts is what tests look at."""
    backend = ScriptedBackend([5, 6])
    await events_of(backend, request(attempt=1))
    async with aclosing(backend.stream(request(attempt=2))) as events:
        await anext(events)
    assert backend.aborted == [2]


async def test_an_attempt_goes_where_its_hint_says_and_never_where_it_must_not():
    """The word for why is the router's."""
    backend = ScriptedBackend([5])
    hint = Hint(rank=1, incarnation="replica-b", tokens=3)
    placed = [request(), request(hint=hint), request(hint=hint, avoid=("replica-b",))]
    served = [(await events_of(backend, asked))[0] for asked in placed]
    assert [(s.rank, s.why) for s in served] == [(0, "placed"), (1, "pinned"), (0, "moved")]


async def test_a_prompt_finds_the_tokens_of_the_turn_before_in_its_replica_only():
    """Per tenant, all but the last prompt token, told with the first ids and the finish."""
    backend = ScriptedBackend([5, 6])
    await events_of(backend, request())
    longer = [1, 2, 3, 5, 6, 9]
    _, first, second, finish = await events_of(backend, request(prompt_ids=longer))
    assert (first.cached_tokens, second.cached_tokens, finish.usage.cached_tokens) == (5, None, 5)
    for elsewhere in (request(prompt_ids=longer, tenant="umbrella"), request(prompt_ids=longer, avoid=("replica-a",))):
        tokens = [event for event in await events_of(backend, elsewhere) if isinstance(event, Tokens)]
        assert tokens[0].cached_tokens == 0


async def test_an_answer_may_depend_on_the_request():
    """A function of the request stands for the ids."""
    backend = ScriptedBackend(lambda asked: asked.prompt_ids[::-1])
    ids = [i for event in await events_of(backend, request()) if isinstance(event, Tokens) for i in event.ids]
    assert ids == [3, 2, 1]


PAST = list(range(40))
X = Label(tenant="acme", pin_key="x")
BOTH = frozenset({"replica-a", "replica-b"})


async def cached_tokens(backend: ScriptedBackend, **changes) -> int:
    """What a request with a past finds."""
    return (await events_of(backend, request(prompt_ids=PAST, **changes)))[-1].usage.cached_tokens


async def test_what_is_forgotten_is_not_found_on_any_replica():
    """Its pages are counted per replica, those of several turns once; another label's stay."""
    backend = ScriptedBackend([5] * 10)
    for avoid in ((), (), ("replica-a",)):
        await cached_tokens(backend, pin_key="x", avoid=avoid)
    await events_of(backend, request(prompt_ids=[7] * 40, pin_key="y"))
    assert await backend.forget([X]) == Erased(dropped=6, reached=BOTH)
    assert await cached_tokens(backend, pin_key="x") == 0
    assert (await events_of(backend, request(prompt_ids=[7] * 40, pin_key="y")))[-1].usage.cached_tokens == 39


async def test_an_unreachable_replica_keeps_what_it_has():
    """It is told by name."""
    backend = ScriptedBackend([5], unreachable={"replica-a"})
    await cached_tokens(backend, pin_key="x")
    assert await backend.forget([X]) == Erased(reached=BOTH - {"replica-a"}, missed=frozenset({"replica-a"}))
    assert await cached_tokens(backend) == 39


async def test_a_running_attempt_leaves_nothing_of_what_was_forgotten():
    """However it ends."""
    backend = ScriptedBackend([5] * 4)
    async with aclosing(backend.stream(request(prompt_ids=PAST, pin_key="x"))) as events:
        assert [type(await anext(events)) for _ in range(2)] == [Served, Tokens]
        assert (await backend.forget([X])).held == 2
    assert await cached_tokens(backend) == 0
