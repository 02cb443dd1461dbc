"""Exception handlers: every error that reaches the application becomes a problem's JSON.

FastAPI's own 422 and plain-text 404 never leave the gateway.
"""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from cluster.errors import ClusterError, InvalidRequestError, NotFoundError
from services.gateway.body import param_of
from services.gateway.problems import Problem, problem_of
from services.gateway.refusals import MethodNotAllowedError
from services.gateway.summary import summary_of

_MAX_PATH: Final = 200
_METHODS: Final = ("DELETE", "GET", "HEAD", "POST")  # all that any route has


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ClusterError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)


def render(problem: Problem, scope: Scope) -> Response:
    """The problem's answer; its code goes into the request's summary."""
    summary_of(scope).error_code = problem.code
    return Response(
        problem.body().json_bytes(),
        status_code=problem.status,
        headers=dict(problem.headers),
        media_type="application/json",
    )


async def _on_error(request: Request, error: Exception) -> Response:
    return render(problem_of(error), request.scope)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = param_of(first["loc"][1:])  # without "query" or "path"
    return render(problem_of(InvalidRequestError(f"{param}: {first['msg']}", param=param)), request.scope)


async def _on_http(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown route or a wrong method."""
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.scope['path'][:_MAX_PATH]}"
    if error.status_code == 404:
        return render(problem_of(NotFoundError("route", asked)), request.scope)
    assert error.status_code == 405
    return render(problem_of(MethodNotAllowedError(asked, _allowed(request))), request.scope)


def _allowed(request: Request) -> str:
    """The methods of the path; the router names those of the first route only."""
    routes = request.app.routes
    scopes = [{**request.scope, "method": method} for method in _METHODS]
    return ", ".join(
        scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
