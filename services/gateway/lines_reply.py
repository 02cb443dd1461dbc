"""A response of JSON Lines that are made while they are sent, no faster than the client reads.

Nothing is sent before the first lines are there, so a refusal is an ordinary problem. An error after that is the last
line, in OpenAI's error body: without it, the answer is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.gateway import faults
from services.gateway.connection import SlowClientError, while_connected
from services.gateway.problems import problem_of
from services.gateway.summary import RequestSummary, summary_of
from services.json_line import one_line


class LinesReply(Response):
    """An ASGI response made from groups of whole lines.

    Args:
        lines: closed when the response is over, whatever ended it.
        write_timeout_s: a client that blocks one write longer is dropped.
    """

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncGenerator[bytes, None], *, write_timeout_s: float) -> None:
        super().__init__()
        self._lines = lines
        self._write_timeout_s = write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises the typed errors of ``lines``, as long as nothing was sent."""
        async with aclosing(self._lines):
            await while_connected(self._stream(summary_of(scope), send), receive)

    async def _stream(self, summary: RequestSummary, send: Send) -> None:
        first = await anext(self._lines)
        headers = [(b"content-type", self.media_type.encode()), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(send, first)
        async with aclosing(self._rest(summary)) as rest:
            async for lines in rest:
                await self._write(send, lines)
        await self._write(send, b"", more=False)

    async def _rest(self, summary: RequestSummary) -> AsyncGenerator[bytes, None]:
        try:
            async for lines in self._lines:
                yield lines
        except Exception as error:  # noqa: BLE001 - whatever it is, the last line says so
            problem = problem_of(error)
            summary.outcome, summary.error_code = "failed", problem.code
            faults.report("gateway.lines_broken", error)
            yield one_line(problem.body().json_bytes()) + b"\n"

    async def _write(self, send: Send, data: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise SlowClientError from None
