"""What routes declare for the document: the body they read, what they answer, and the errors that can reach them.

An error is described by the first line of its class and filed under its status, so the document says what is raised.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any, Final

from pydantic import BaseModel

from cluster.errors import (
    ClusterError,
    ContextLengthExceededError,
    DeadlineExceededError,
    GenerationFailedError,
    InvalidKeyError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelReplacedError,
    NoReplicaError,
    OverloadedError,
    PromptMismatchError,
    StoreUnavailableError,
    StreamDivergedError,
    TurnError,
    TurnLostError,
    TurnMovedError,
)
from services.gateway.problems import INTERNAL_MESSAGE, status_of
from services.gateway.refusals import BodyTooLargeError, MediaTypeError
from services.gateway.schemas.models import ErrorBody

REF: Final = "#/components/schemas/{model}"

Responses = dict[int | str, dict[str, Any]]
Errors = tuple[type[ClusterError], ...]

KEY: Final[Errors] = (InvalidKeyError, StoreUnavailableError)  # of every route that takes a tenant's key
BODY: Final[Errors] = (InvalidRequestError, BodyTooLargeError, MediaTypeError)
CHAT: Final[Errors] = (
    ModelNotFoundError,
    ContextLengthExceededError,
    OverloadedError,
    NoReplicaError,
    GenerationFailedError,
    TurnError,
    DeadlineExceededError,
)
STORED: Final[Errors] = (
    TurnMovedError,
    TurnLostError,
    PromptMismatchError,
    ModelReplacedError,
    StreamDivergedError,  # of a request sent again, which reads
)

# OpenAPI 3.1 has no word for streams; its readers take this for the schema of each event.
_EVENT: Final = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "description": "The kind of event, as in `data`; chats have none."},
        "id": {"type": "string", "description": "Number and checksum: what `Last-Event-ID` takes."},
        "data": {"type": "string", "description": "JSON; a chat's last one is `[DONE]`."},
    },
}
_EVENTS: Final = {"text/event-stream": {"schema": _EVENT}}
_JSON_ERROR: Final = {"application/json": {"schema": {"$ref": REF.format(model=ErrorBody.__name__)}}}
_HEADERS: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After", "x-should-retry")}
HEADERS: Final = {
    "x-request-id": {"description": "Names this request in logs.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "string", "pattern": "^[1-9][0-9]*$"}},
    "x-should-retry": {
        "description": "Sent where the answer is made all the same: clients are not to ask again by themselves.",
        "schema": {"const": "false"},
    },
    "WWW-Authenticate": {"description": "Which kind of key.", "schema": {"const": "Bearer"}},
    "x-replica-rank": {
        "description": "The replica that began it.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "x-replica-why": {
        "description": "Why that one.",
        "schema": {"type": "string", "enum": ["pinned", "placed", "spilled", "moved"]},
    },
}


def body_of(shape: type[BaseModel], **example: Any) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads this body."""
    content: dict[str, Any] = {"schema": {"$ref": REF.format(model=shape.__name__)}}
    if example:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def answers(shape: type[BaseModel], *errors: type[ClusterError], is_streamed: bool = False) -> Responses:
    """``responses`` of a route: its shape on success, and the errors it may give."""
    success: dict[str, Any] = {"model": shape}
    if is_streamed:
        success["content"] = _EVENTS
    return {200: success, **problems(*errors)}


def problems(*errors: type[ClusterError]) -> Responses:
    """``responses`` of a route whose class of response tells of its success: the errors it may give."""
    told: set[type[ClusterError]] = {*errors, ClusterError}
    ordered = sorted(told, key=lambda error: (status_of(error), error.code))
    return {status: _problem(status, same) for status, same in groupby(ordered, key=status_of)}


def headers_of(*names: str) -> dict[str, Any]:
    """References to headers of the document."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}


def _problem(status: int, errors: Iterable[type[ClusterError]]) -> dict[str, Any]:
    told = "\n".join(f"- `{error.code}`: {_sentence(error)}" for error in errors)
    return {"description": told, "content": _JSON_ERROR, "headers": headers_of(*_HEADERS.get(status, ()))}


def _sentence(error: type[ClusterError]) -> str:
    return INTERNAL_MESSAGE if error is ClusterError else (error.__doc__ or "").splitlines()[0]
