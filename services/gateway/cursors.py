"""Where a stream is picked up: behind an event that its client names.

``starting_after`` is OpenAI's and says the event's number. ``Last-Event-ID`` is what browsers send when they reconnect:
the ``id`` of the last event they read, number and checksum. A reconnecting browser repeats its first query too, so the
header counts.
"""

from __future__ import annotations

from cluster.errors import InvalidRequestError
from services.gateway.schemas.responses import RetrieveQuery
from services.turns.events import Cursor


def cursor_of(asked: RetrieveQuery, last_event_id: str | None) -> Cursor | None:
    """The cursor of a request; None: from the first event.

    Raises:
        InvalidRequestError: it is given where nothing is streamed.
    """
    if asked.starting_after is not None and not asked.stream:
        raise InvalidRequestError("starting_after: Needs stream=true.", param="starting_after")
    if asked.stream and last_event_id is not None:
        seq, crc = last_event_id.split(".")
        return Cursor(int(seq), int(crc, 16))
    return None if asked.starting_after is None else Cursor(asked.starting_after)
