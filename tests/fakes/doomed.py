"""A process that dies at one of its calls, as by kill -9.

All that a process does to the world goes through its seams. From the kill on none of its calls begins, and none that
was under way returns: its tasks wait for ever and write nothing, whatever their clean-up tries.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any


class Doomed:
    """Counts its calls at all seams, while ``is_armed``.

    Args:
        kill_at: the call that it dies at, counted from 1; 0: it lives.
        is_after: it dies when that call has been done and before its reply is read, else before the call.
        only: count calls of this name; "": all.

    Attributes:
        calls: names of the calls that began, in order.
        begun: ids of turns that it tried to begin.
        died: set at its death.
    """

    def __init__(self, kill_at: int = 0, *, is_after: bool = False, only: str = "") -> None:
        self.calls: list[str] = []
        self.begun: list[str] = []
        self.died = asyncio.Event()
        self._kill_at = kill_at
        self._is_after = is_after
        self._only = only
        self.is_armed = True
        self._frozen: list[asyncio.Future[None]] = []  # nobody else refers to tasks that wait for nothing

    @property
    def is_dead(self) -> bool:
        """Whether it was killed."""
        return self.died.is_set()

    @property
    def arrow(self) -> str:
        """Where it was killed."""
        return f"{'after' if self._is_after else 'before'} {self.calls[self._kill_at - 1]}, call {self._kill_at}"

    def seam(self, inner: Any) -> Any:
        """``inner`` as this process reaches it."""
        return _Seam(self, inner)

    async def call(self, name: str, act: Callable[[], Awaitable[Any]]) -> Any:
        """One call through a seam."""
        is_mine = self._count(name)
        if is_mine and not self._is_after:
            self.died.set()
        await self._pass()
        outcome = await act()
        if is_mine:
            self.died.set()
        await self._pass()
        return outcome

    def _count(self, name: str) -> bool:
        """Whether this is the call to die at."""
        if not self.is_armed or self.is_dead or self._only not in {"", name}:
            return False
        self.calls.append(name)
        return len(self.calls) == self._kill_at

    async def _pass(self) -> None:
        if self.is_dead:
            self._frozen.append(asyncio.get_running_loop().create_future())
            await self._frozen[-1]


class _Seam:
    def __init__(self, process: Doomed, inner: Any) -> None:
        self._process = process
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if inspect.isasyncgenfunction(found):
            return partial(self._stream, name, found)
        return partial(self._call, name, found) if inspect.iscoroutinefunction(found) else found

    async def _call(self, name: str, method: Callable[..., Awaitable[Any]], *args: Any, **fields: Any) -> Any:
        if name == "begin":
            self._process.begun.append(args[0].turn)
        return await self._process.call(name, lambda: method(*args, **fields))

    async def _stream(self, name: str, method: Callable[..., AsyncGenerator[Any, None]], *args: Any) -> Any:
        events = method(*args)
        try:
            while True:
                try:
                    event = await self._process.call(name, lambda: anext(events))
                except StopAsyncIteration:
                    return
                yield event
        finally:
            if not self._process.is_dead:
                await events.aclose()
