"""What surrounds every request: its id, its log line, its counters, its last line of defence, its body's limit.

Plain ASGI: middleware that buffers or re-tasks responses breaks streams and hides disconnects.
"""

from __future__ import annotations

import asyncio
import re
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway import faults
from services.gateway.connection import ClientGoneError, SlowClientError
from services.gateway.handlers import render
from services.gateway.metrics import GatewayCounters
from services.gateway.problems import problem_of
from services.gateway.refusals import BodyTooLargeError
from services.gateway.summary import RequestSummary, attach

log = structlog.get_logger(__name__)
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id_of(headers: Headers) -> str:
    """The client's own request id if it is harmless, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


class RequestScope:
    """Outermost: nothing that happens within a request leaves it unlogged, uncounted or unanswered."""

    def __init__(self, app: ASGIApp, counters: GatewayCounters) -> None:
        self._app = app
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        summary = RequestSummary(request_id_of(Headers(scope=scope)), scope["method"])
        attach(scope, summary)
        self._counters.open_requests += 1
        try:
            with structlog.contextvars.bound_contextvars(request_id=summary.request_id):
                await self._serve(scope, receive, _with_id(send, summary), summary)
        finally:
            self._counters.open_requests -= 1
            self._conclude(scope, summary)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, summary: RequestSummary) -> None:
        try:
            await self._app(scope, receive, send)
        except SlowClientError:
            summary.outcome = "slow_client"
        except (ClientGoneError, ClientDisconnect):
            summary.outcome = "client_gone"
        except asyncio.CancelledError:
            summary.outcome = "client_gone"
            raise
        except Exception as error:
            summary.outcome = "failed"
            faults.report("gateway.request_failed", error)
            if summary.status:
                raise
            await render(problem_of(error), scope)(scope, receive, send)

    def _conclude(self, scope: Scope, summary: RequestSummary) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        status_class = f"{summary.status // 100}xx" if summary.status else "gone"
        self._counters.requests[route, status_class] += 1
        self._counters.slow_clients += summary.outcome == "slow_client"
        if summary.error_code:
            self._counters.errors[summary.error_code] += 1
        log.info("gateway.request", route=route, **summary.fields())


class BodyLimit:
    """Refuses bodies over ``max_bytes``, announced or found out, once the application starts to read them.

    What is left of such a body is discarded by the server, so that the client can finish sending and read the answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            receive = self._limited(receive, Headers(scope=scope).get("content-length", "0"))
        await self._app(scope, receive, send)

    def _limited(self, receive: Receive, announced: str) -> Receive:
        seen = 0
        is_too_large = announced.isdecimal() and int(announced) > self._max_bytes

        async def limited() -> Message:
            nonlocal seen
            if is_too_large:
                raise self._too_large()
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"The request's body is over the limit of {self._max_bytes} bytes.")


def _with_id(send: Send, summary: RequestSummary) -> Send:
    async def tagged(message: Message) -> None:
        if message["type"] == "http.response.start":
            summary.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = summary.request_id
        await send(message)

    return tagged
