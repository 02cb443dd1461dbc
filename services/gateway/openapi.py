"""The OpenAPI document.

Routes read their bodies themselves (after the key is checked), so FastAPI does not see the bodies' shapes; they are
added here, with the names of the served models, the way from one answer to the next request, and what FastAPI says of
itself taken out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from services.gateway.answers import HEADERS, REF, headers_of
from services.gateway.links import LINKS
from services.gateway.schemas.changes import ScaleRequest
from services.gateway.schemas.chat import ChatCompletionRequest
from services.gateway.schemas.conversations import ConversationRequest, ConversationUpdate, ItemsRequest
from services.gateway.schemas.models import ErrorBody
from services.gateway.schemas.responses import ResponseRequest

DESCRIPTION: Final = (
    "OpenAI's chat completions, responses and conversations on ChatGLM3. A path that exists answers a method that it "
    "does not have with 405 and `method_not_allowed`; every error has OpenAI's body."
)
_BODIES: Final[tuple[type[BaseModel], ...]] = (
    ChatCompletionRequest,
    ResponseRequest,
    ConversationRequest,
    ConversationUpdate,
    ItemsRequest,
    ScaleRequest,
)
_SHAPES: Final[list[tuple[type[BaseModel], JsonSchemaMode]]] = [
    *((body, "validation") for body in _BODIES),
    (ErrorBody, "serialization"),
]
_FASTAPIS: Final = ("HTTPValidationError", "ValidationError")
_ASK_MODEL: Final = ("ChatCompletionRequest", "ResponseRequest")


class DocumentedApp(FastAPI):
    """A FastAPI application whose document is exact.

    Attributes:
        model_names: what may stand where a model is asked for.
    """

    model_names: Sequence[str] = ()

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, shapes = models_json_schema(_SHAPES, ref_template=REF)
            document["components"]["schemas"] |= shapes["$defs"]
            for name in _FASTAPIS:
                document["components"]["schemas"].pop(name, None)
            document["components"]["headers"] = HEADERS
            for operation in _operations(document):
                _mend(operation)
            _name_models(document, list(self.model_names))
        assert self.openapi_schema is not None
        return self.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _mend(operation: dict[str, Any]) -> None:
    """FastAPI announces its own 422 wherever there are parameters, and parameters that are null."""
    operation["responses"].pop("422", None)
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    success = operation["responses"]["200"]
    success.setdefault("headers", headers_of())
    if links := LINKS.get(operation["operationId"]):
        success["links"] = links


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    branches = [branch for branch in schema.pop("anyOf", ()) if branch != {"type": "null"}]
    assert len(branches) <= 1
    return {**schema, **branches[0]} if branches else schema


def _name_models(document: dict[str, Any], names: list[str]) -> None:
    schemas = document["components"]["schemas"]
    for body in _ASK_MODEL:
        schemas[body]["properties"]["model"] = {"type": "string", "enum": names}
    for operation in _operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if "model" in content.get("example", {}):
                content["example"] = {**content["example"], "model": names[0]}
    (path,) = (path for path in document["paths"] if path.startswith("/v1/models/"))
    (parameter,) = document["paths"][path]["get"]["parameters"]
    parameter["schema"] = {"type": "string", "enum": names}
