"""An engine in this process behind the same seam as the cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from cluster.engine.async_engine import ThreadedEngine
from cluster.errors import ContextLengthExceededError
from cluster.protocol import Finish, Label, Served, Tokens
from services.backend.base import Erased
from services.backend.local import LocalBackend
from tests.fakes.engine_driver import CONFIG, make_request
from tests.fakes.fake_runner import FakeRunner, expected_output
from tests.support.turn_kit import until


@pytest.fixture
def engine() -> ThreadedEngine:
    """An engine that the backend starts and stops."""
    return ThreadedEngine(lambda: FakeRunner(num_pages=64, page_size=CONFIG.page_size), CONFIG)


@pytest.fixture
async def backend(engine: ThreadedEngine) -> AsyncIterator[LocalBackend]:
    """The backend, running."""
    running = LocalBackend(engine)
    await running.start()
    yield running
    await running.stop()


async def test_an_attempt_is_served_and_finished(backend: LocalBackend) -> None:
    """One Served, ids in order, one Finish."""
    request = make_request(1, [3, 4, 5])
    events = [event async for event in backend.stream(request)]
    assert isinstance(events[0], Served)
    assert isinstance(events[-1], Finish)
    assert [i for e in events if isinstance(e, Tokens) for i in e.ids] == expected_output(request, vocab_size=50)


async def test_closing_the_stream_frees_the_pages(backend: LocalBackend, engine: ThreadedEngine) -> None:
    """A reader that leaves costs nothing more."""
    async with aclosing(backend.stream(make_request(2, [3, 4, 5], max_new_tokens=80))) as events:
        await anext(events)
    await until(lambda: engine.stats().pages_active == 0)


async def test_a_refusal_comes_before_the_first_event(backend: LocalBackend) -> None:
    """What does not fit raises at once."""
    with pytest.raises(ContextLengthExceededError):
        await anext(backend.stream(make_request(3, [3], max_new_tokens=CONFIG.context_length)))


async def test_what_the_engine_forgets_is_told(backend: LocalBackend) -> None:
    """Of several labels together; an engine that has stopped holds nothing and is nobody to be reached."""
    for i, pin_key in enumerate("xyz"):
        assert [event async for event in backend.stream(make_request(i, [i] * 9, max_new_tokens=4, pin_key=pin_key))]
    labels = [Label(tenant="a", pin_key=pin_key) for pin_key in "xy"]
    assert await backend.forget(labels) == Erased(dropped=6, reached=frozenset({"local"}))
    await backend.stop()
    assert await backend.forget(labels) == Erased()
