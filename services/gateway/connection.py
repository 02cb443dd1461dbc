"""The client's end of a request: is it still there, and does it read?

Servers differ in how they tell that a client left: uvicorn answers ``receive()`` with ``http.disconnect``, Ray Serve
cancels the request's task. Both end the work, and both wait for its clean-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed its connection before its answer was complete."""


class SlowClientError(ClientGoneError):
    """The client did not read what it asked for."""


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Run ``work`` beside a watch on the client; whichever ends first ends the other.

    The request's body must have been read. Raises ClientGoneError when the client leaves first.
    """
    job = asyncio.create_task(work)
    watch = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((job, watch), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientGoneError
    finally:
        await cancelled(job, watch)
    return job.result()


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs, and wait until it has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
