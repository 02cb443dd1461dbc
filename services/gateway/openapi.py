"""The OpenAPI document.

Routes read their bodies themselves (after the key is checked), so FastAPI does not see the bodies' shapes; they are
added here.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.gateway.schemas.changes import ScaleRequest
from services.gateway.schemas.chat import ChatCompletionRequest
from services.gateway.schemas.conversations import ConversationRequest, ConversationUpdate, ItemsRequest
from services.gateway.schemas.models import ErrorBody
from services.gateway.schemas.responses import ResponseRequest

_BODIES: tuple[type[BaseModel], ...] = (
    ChatCompletionRequest,
    ResponseRequest,
    ConversationRequest,
    ConversationUpdate,
    ItemsRequest,
    ScaleRequest,
)
_REF = "#/components/schemas/{model}"
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
_REASONS = {
    400: "A field is wrong; `param` names it.",
    401: "No, wrong, revoked or malformed API key.",
    404: "No such model, conversation or item.",
    409: "A turn of the conversation is running.",
    413: "The body is too large.",
    429: "The queue is full; see Retry-After.",
    503: "No replica, or no store, answers now; see Retry-After.",
}


def body_of(shape: type[BaseModel]) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads this body."""
    content = {"application/json": {"schema": {"$ref": _REF.format(model=shape.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def answers(shape: type[BaseModel], *errors: int, is_streamed: bool = False) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: its shape on success, and the errors it may give."""
    success: dict[str, Any] = {"model": shape}
    if is_streamed:
        success["content"] = _EVENTS
    return {200: success, **problems(*errors)}


def problems(*errors: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route whose class of response tells of its success: the errors it may give."""
    return {status: {"model": ErrorBody, "description": _REASONS[status]} for status in errors}


class DocumentedApp(FastAPI):
    """A FastAPI application whose document knows the bodies' shapes."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, bodies = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_REF)
            document["components"]["schemas"] |= bodies["$defs"]
            _drop_422(document)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _drop_422(document: dict[str, Any]) -> None:
    """FastAPI announces its own validation answer wherever there are parameters; ours is a 400."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
