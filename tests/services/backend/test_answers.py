"""Nobody waits for those who do not answer, nor suffers from those who fail."""

from __future__ import annotations

import asyncio

from services.backend.answers import answers_by


async def answer(what: bytes | Exception | None) -> bytes:
    """Of one replica: bytes, an error, or nothing for ever."""
    if what is None:
        await asyncio.Event().wait()
    if isinstance(what, Exception):
        raise what
    assert what is not None
    return what


async def test_answers_are_kept_when_others_are_late_or_fail() -> None:
    """In the order of the questions; who is late is waited for no more."""
    calls = [answer(what) for what in (b"a", OSError("it died"), None, b"b")]
    assert await answers_by(calls, asyncio.get_running_loop().time() + 0.01) == [b"a", b"b"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_without_replicas_there_is_nothing_to_wait_for() -> None:
    """The answer comes at once."""
    assert await answers_by([], asyncio.get_running_loop().time() + 60) == []
