"""The response that drives a turn: starts it, writes it (as JSON or as a stream) and ends it with its client.

Nothing is sent before the turn has started, so a refusal is an ordinary problem; after that, errors are the stream's
last event. Whatever happens, the turn's generator is closed when the response is over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import perf_counter

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.protocol import Served
from services.gateway import faults, sse
from services.gateway.connection import while_connected
from services.gateway.deps import GatewayLimits, TurnStream
from services.gateway.handlers import render
from services.gateway.problems import problem_of, problem_of_code
from services.gateway.rendering.base import Rendering
from services.gateway.summary import RequestSummary, summary_of
from services.turns.events import EventKind, TurnEvent, TurnResult, TurnStarted

_FAILED = {EventKind.FAILED, EventKind.BROKEN}


class TurnReply(Response):
    """An ASGI response made from one turn."""

    def __init__(
        self,
        turn: TurnStream,
        rendering: Callable[[TurnStarted], Rendering],
        *,
        is_stream: bool,
        limits: GatewayLimits,
    ) -> None:
        super().__init__()
        self._turn = turn
        self._rendering = rendering
        self._is_stream = is_stream
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises the turn's typed errors, as long as nothing was sent."""
        async with aclosing(self._turn):
            if self._is_stream:
                await while_connected(self._stream(scope, send), receive)
            else:
                response = await while_connected(self._collect(scope), receive)
                await response(scope, receive, send)

    async def _start(self, summary: RequestSummary) -> tuple[Rendering, dict[str, str]]:
        started = await anext(self._turn)
        assert isinstance(started, TurnStarted)
        headers = {} if started.served is None else _headers(started.served)
        summary.rank = started.served.rank if started.served else None
        return self._rendering(started), headers

    async def _collect(self, scope: Scope) -> Response:
        rendering, headers = await self._start(summary_of(scope))
        last, result = await self._last(summary_of(scope))
        if last.kind in _FAILED:
            return render(problem_of_code(result.error_code, result.error_message), scope)
        return Response(rendering.whole(last, result), headers=headers, media_type="application/json")

    async def _last(self, summary: RequestSummary) -> tuple[TurnEvent, TurnResult]:
        async for event in self._turn:
            assert isinstance(event, TurnEvent)
            _note(event, summary)
            if event.result is not None:
                return event, event.result
        raise RuntimeError("the turn ended without a last event")

    async def _stream(self, scope: Scope, send: Send) -> None:
        summary = summary_of(scope)
        rendering, headers = await self._start(summary)
        raw = [(name.encode(), value.encode()) for name, value in (sse.HEADERS | headers).items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async with aclosing(self._frames(rendering, summary)) as frames:
            await sse.EventWriter(
                frames,
                send,
                keep_alive_s=self._limits.keep_alive_s,
                write_timeout_s=self._limits.write_timeout_s,
            ).run()

    async def _frames(self, rendering: Rendering, summary: RequestSummary) -> AsyncGenerator[bytes, None]:
        try:
            async for event in self._turn:
                assert isinstance(event, TurnEvent)
                _note(event, summary)
                yield rendering.frames(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, the stream says so and ends
            problem = problem_of(error)
            summary.outcome, summary.error_code = "failed", problem.code
            faults.report("gateway.stream_broken", error)
            yield rendering.broken(problem)


def _headers(served: Served) -> dict[str, str]:
    return {"x-replica-rank": str(served.rank), "x-replica-why": served.why}


def _note(event: TurnEvent, summary: RequestSummary) -> None:
    """Keep what the log line tells of a turn: when its text began, and how it ended."""
    if summary.first_text_s is None and event.kind is EventKind.TEXT_DELTA:
        summary.first_text_s = perf_counter() - summary.started_at
    if event.result is None:
        return
    summary.usage = event.result.usage
    summary.tool_calls = sum(one.call is not None for one in event.result.choices or (event.result,))
    if event.kind in _FAILED:
        summary.outcome, summary.error_code = "failed", event.result.error_code
