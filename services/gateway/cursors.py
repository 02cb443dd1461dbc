"""Where a stream is picked up: behind an event that its client names.

``starting_after`` is OpenAI's and says the event's number. ``Last-Event-ID`` is what browsers send when they reconnect:
the ``id`` of the last event they read, number and checksum. A reconnecting browser repeats its first query too, so the
header counts.
"""

from __future__ import annotations

import re
from typing import Final

from fastapi import Request

from cluster.errors import InvalidRequestError
from services.gateway.schemas.responses import RetrieveQuery
from services.turns.events import Cursor

_EVENT_ID: Final = re.compile(r"([0-9]{1,9})\.([0-9a-f]{8})")


def cursor_of(request: Request, asked: RetrieveQuery) -> Cursor | None:
    """The cursor of a request; None: from the first event.

    Raises:
        InvalidRequestError: it is malformed, or given where nothing is streamed.
    """
    if asked.starting_after is not None and not asked.stream:
        raise InvalidRequestError("starting_after: Needs stream=true.", param="starting_after")
    name = request.headers.get("last-event-id")
    if asked.stream and name:
        return _parse(name)
    return None if asked.starting_after is None else Cursor(asked.starting_after)


def _parse(name: str) -> Cursor:
    match = _EVENT_ID.fullmatch(name)
    if match is None:
        message = "Last-Event-ID: Send the id of the last event read, as it was written: <number>.<checksum>."
        raise InvalidRequestError(message, param="Last-Event-ID")
    return Cursor(int(match[1]), int(match[2], 16))
