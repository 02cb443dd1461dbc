"""Errors as HTTP: the only place that knows both.

A rule is looked up along the error's class hierarchy, so a new subclass needs no entry. What went wrong inside us is
told by code alone: messages of such errors may name hosts or paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import cast

from cluster.errors import (
    CallerError,
    ClusterError,
    ContextLengthExceededError,
    ConversationBusyError,
    CursorPastEndError,
    DeadlineExceededError,
    IdempotencyMismatchError,
    InvalidKeyError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    OverloadedError,
    PreviousResponseError,
    QueueFullError,
    RetryLaterError,
    StreamDivergedError,
    TurnError,
    TurnMovedError,
)
from services.gateway.refusals import BodyTooLargeError, MediaTypeError, MethodNotAllowedError
from services.gateway.schemas.models import ErrorBody, ErrorDetail

INTERNAL_MESSAGE = "The server could not answer this request. Try again; if it stays, report the x-request-id."
_INVALID = "invalid_request_error"
_SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class Rule:
    """Status and OpenAI's error type; ``tells`` is whether the error's own message may leave the house."""

    status: int
    type: str
    tells: bool = True


_RULES: Mapping[type[BaseException], Rule] = {
    InvalidRequestError: Rule(400, _INVALID),
    ContextLengthExceededError: Rule(400, _INVALID),
    InvalidKeyError: Rule(401, _INVALID),
    NotFoundError: Rule(404, _INVALID),
    PreviousResponseError: Rule(404, _INVALID),
    ConversationBusyError: Rule(409, _INVALID),
    IdempotencyMismatchError: Rule(409, _INVALID),
    MethodNotAllowedError: Rule(405, _INVALID),
    BodyTooLargeError: Rule(413, _INVALID),
    MediaTypeError: Rule(415, _INVALID),
    CallerError: Rule(400, _INVALID),
    OverloadedError: Rule(429, "rate_limit_error"),
    QueueFullError: Rule(429, "rate_limit_error"),
    RetryLaterError: Rule(503, _SERVER),
    StreamDivergedError: Rule(409, _INVALID),  # what the reader holds is not what is recorded: asking again is no use
    TurnMovedError: Rule(503, _SERVER),
    DeadlineExceededError: Rule(504, _SERVER),
    TurnError: Rule(500, _SERVER),
    BaseException: Rule(500, _SERVER, tells=False),
}

_PARAMS: Mapping[type[ClusterError], str] = {
    ModelNotFoundError: "model",
    PreviousResponseError: "previous_response_id",
    IdempotencyMismatchError: "Idempotency-Key",
    CursorPastEndError: "starting_after",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the caller sees it."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> ErrorBody:
        """OpenAI's error body."""
        return ErrorBody(error=ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code))


def problem_of(error: BaseException) -> Problem:
    """The problem an error is, without internals."""
    rule = _rule(type(error))
    if not rule.tells:
        return Problem(rule.status, rule.type, ClusterError.code, INTERNAL_MESSAGE)
    code = cast("ClusterError", error).code
    headers = {**_headers(type(error)), **_own_headers(error)}
    return Problem(rule.status, rule.type, code, str(error), param=_param(error), headers=headers)


def problem_of_code(code: str, message: str) -> Problem:
    """The problem of a turn that failed after it began, known by its stable code."""
    cls = _classes().get(code, ClusterError)
    rule = _rule(cls)
    if not rule.tells:
        return Problem(rule.status, rule.type, code or ClusterError.code, INTERNAL_MESSAGE)
    return Problem(rule.status, rule.type, code, message, headers=_headers(cls))


def status_of(cls: type[ClusterError]) -> int:
    """The HTTP status of an error of this class."""
    return _rule(cls).status


def _rule(cls: type[BaseException]) -> Rule:
    return next(_RULES[base] for base in cls.__mro__ if base in _RULES)


def _param(error: BaseException) -> str | None:
    if isinstance(error, InvalidRequestError):
        return error.param
    return next((name for cls, name in _PARAMS.items() if isinstance(error, cls)), None)


def _headers(cls: type[BaseException]) -> dict[str, str]:
    """Those of all errors of a class."""
    if issubclass(cls, TurnMovedError):  # a client that asked again by itself would begin a second turn
        return {"retry-after": "1", "x-should-retry": "false"}
    return {"retry-after": "1"} if issubclass(cls, RetryLaterError) else {}


def _own_headers(error: BaseException) -> dict[str, str]:
    if isinstance(error, RetryLaterError):
        return {"retry-after": str(max(1, ceil(error.retry_after_s)))}
    if isinstance(error, InvalidKeyError):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, MethodNotAllowedError):
        return {"allow": error.allowed}
    return {}


def _classes() -> dict[str, type[ClusterError]]:
    return {cls.code: cls for cls in _descendants(ClusterError)}


def _descendants(cls: type[ClusterError]) -> Iterator[type[ClusterError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _descendants(child)
