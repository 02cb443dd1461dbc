"""Calls of redis-py that end when they are cancelled.

It sends with ``asyncio.wait_for``, and that of Python 3.11 swallows a cancellation which comes just as its work ends:
the task goes on, and whoever waits for its end waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def cancellable(work: Awaitable[T]) -> T:
    """The outcome of ``work``. Raises CancelledError if this task was cancelled meanwhile, whatever came of it."""
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asked = task.cancelling()
    outcome = await work
    if task.cancelling() > asked:
        raise asyncio.CancelledError
    return outcome
