r"""Bodies: bytes → a validated request, or an InvalidRequestError that names the field.

Validation reads JSON directly (no intermediate objects). Lone surrogates (``"\ud800"``) are refused there as broken
JSON without a place; a second, slower look finds the field they stand in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import InvalidRequestError
from services.gateway.refusals import MediaTypeError
from services.gateway.schemas.base import RequestBody

Body = TypeVar("Body", bound=RequestBody)
_MAX_PARAM = 128
_JSON = "application/json"
_SURROGATE = re.compile(r"[\ud800-\udfff]")


async def read_body(request: Request, shape: type[Body]) -> Body:
    """Read and validate the request's body.

    Raises:
        MediaTypeError: it is announced as something else than JSON, or as compressed.
        InvalidRequestError: it is not JSON, or a field is wrong; the first one is named.
        BodyTooLargeError: it is over the limit.
        ClientDisconnect: the client left while sending it.
    """
    _check_announced(request.headers)
    return parse(await request.body(), shape)


def parse(body: bytes, shape: type[Body]) -> Body:
    """Validate a body. Raises InvalidRequestError."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _refusal(first, body) from None  # the cause would carry the input


def param_of(location: Sequence[int | str]) -> str:
    """A field's name as the caller wrote it: ``messages[0].content``."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(("<", "[")):  # tags of unions, and pydantic's mark of a key
            path += f".{step}" if path else step
    return path[:_MAX_PARAM]


def _check_announced(headers: Mapping[str, str]) -> None:
    """A client that says nothing of its body is believed to send JSON."""
    media = headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if media != _JSON:
        raise MediaTypeError(f"Send the body as JSON, with 'Content-Type: {_JSON}'.")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise MediaTypeError("Send the body as it is, without a Content-Encoding.")


def _refusal(error: ErrorDetails, body: bytes) -> InvalidRequestError:
    if error["type"] == "json_invalid":
        return _broken_json(error["ctx"]["error"], body)
    if not error["loc"]:
        return InvalidRequestError("The body must be a JSON object.")
    param = param_of(error["loc"])
    return InvalidRequestError(f"{param}: {error['msg']}", param=param)


def _broken_json(reason: str, body: bytes) -> InvalidRequestError:
    param = _surrogate_field(body)
    if param is not None:
        message = f"{param}: The text holds a lone surrogate, which is not a character."
        return InvalidRequestError(message, param=param)
    return InvalidRequestError(f"The body is not valid JSON: {reason}")


def _surrogate_field(body: bytes) -> str | None:
    """The first field whose text (or name) holds a lone surrogate, if that is all that is wrong."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return next((param_of(path) for path, text in _texts(document) if _SURROGATE.search(text)), None)


def _texts(document: Any) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """All strings of a JSON document with their places, in order."""
    stack: list[tuple[tuple[int | str, ...], Any]] = [((), document)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, dict):
            yield from ((path, key) for key in value)
            stack += [((*path, key), child) for key, child in reversed(value.items())]
        elif isinstance(value, list):
            stack += [((*path, index), child) for index, child in reversed(list(enumerate(value)))]
