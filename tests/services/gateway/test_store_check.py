"""A gateway's look at its store."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.gateway.store_check import StoreCheck

EVICTS = ConfigurationError("set maxmemory-policy noeviction.")
ODD = ResponseError("Command is not available: 'CONFIG'")
AWAY = StoreUnavailableError("away", retry_after_s=1.0)


class Looks:
    """Finds one thing after the other; the last for ever. ``ended`` is set when only that is left."""

    def __init__(self, *found):
        self._found = list(found)
        self.ended = asyncio.Event()

    async def __call__(self):
        found = self._found.pop(0) if len(self._found) > 1 else self._found[0]
        if len(self._found) == 1:
            self.ended.set()
        if isinstance(found, Exception):
            raise found
        return found


async def looked(looks):
    """The check after its last look, and what it logged."""
    check = StoreCheck(looks, pause_s=0)
    with capture_logs() as log:
        await check.start()
        await looks.ended.wait()
        await check.stop()
    return check, [(entry["event"], entry.get("reason", "")) for entry in log]


async def test_warnings_are_logged_once():
    """And the store is used."""
    check, log = await looked(Looks(["no file"], ["no file"]))
    assert not check.is_refused
    assert log == [("store.warning", "no file")]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_refusal_is_logged_once_and_stays_while_it_holds(times):
    """The log of a gateway that waits for its operator does not grow."""
    check, log = await looked(Looks(*[EVICTS] * times, EVICTS))
    assert check.is_refused
    assert log == [("store.refused", str(EVICTS))]


async def test_what_was_put_right_is_not_refused_any_more():
    """Without a restart, whatever the looks in between came to."""
    looks = Looks(EVICTS, AWAY, ODD, [])
    check = StoreCheck(looks, pause_s=0)
    await check.start()
    await check._task
    assert not check.is_refused


async def test_a_store_that_is_away_is_neither_refused_nor_logged():
    """The store says so itself, to every turn."""
    check, log = await looked(Looks(AWAY, AWAY))
    assert not check.is_refused
    assert log == []


async def test_a_look_that_fails_is_not_the_last():
    """Whatever a server replies: it is logged once, and what was known before holds."""
    check, log = await looked(Looks(EVICTS, ODD, ODD, ODD))
    assert check.is_refused
    assert log == [("store.refused", str(EVICTS)), ("store.check_failed", "")]
