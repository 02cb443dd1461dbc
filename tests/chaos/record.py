"""What clients of a cluster write down, line by line: enough to judge it by, together with what Redis holds.

Nothing here knows what is right. An *ask* is one turn that a client wants; it may send it several times, under one
idempotency key, and read it over many connections.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

NO_CURSOR = -1


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """A turn that a client wants.

    Attributes:
        ask: its name, unlike all others.
        input: its text, unlike all others.
        key: of idempotency.
        conversation, previous: where it stands; at most one is not "".
        tokens: most ids of the answer.
    """

    at: float
    ask: str
    talker: str
    kind: str
    input: str
    key: str
    conversation: str = ""
    previous: str = ""
    tokens: int = 0

    @property
    def is_background(self) -> bool:
        """Whether nobody is there when it is answered."""
        return self.kind.startswith("background")


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag="reply"):
    """An HTTP answer that is no stream.

    Attributes:
        what: was asked of the server: ``create`` or ``retrieve``.
        status: 0: the connection broke, and ``code`` is the client's own word for it.
        response: its id, where it is known.
        active: the id that a 409 names.
        state: of the response that was answered; "" for a problem.
        text: of its answer.
    """

    at: float
    ask: str
    what: str
    status: int
    code: str = ""
    response: str = ""
    active: str = ""
    state: str = ""
    text: str = ""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One event with an id. ``text``: its delta, or the whole text of a last event; ``state``: of a last event."""

    seq: int
    id: str
    type: str
    text: str = ""
    state: str = ""


class Read(msgspec.Struct, frozen=True, kw_only=True, tag="read"):
    """One connection that a stream was read from.

    Attributes:
        cursor: number of the last event that the client had, as it told the server.
        by: how it told: ``nothing``, ``Last-Event-ID`` or ``starting_after``.
        end: ``ended`` (a last event), ``dropped`` (by the client), ``broken``, or the code of an ``error`` event.
    """

    at: float
    ask: str
    response: str
    cursor: int
    by: str
    events: list[Event]
    end: str


class End(msgspec.Struct, frozen=True, kw_only=True, tag="end"):
    """What the client takes for the end of a turn. ``state`` is the response's, or what kept it from one."""

    at: float
    ask: str
    response: str
    state: str
    text: str = ""


class Listed(msgspec.Struct, frozen=True, kw_only=True, tag="listed"):
    """A conversation's items as the API tells them: role and text, oldest first."""

    at: float
    conversation: str
    items: list[tuple[str, str]]


class Act(msgspec.Struct, frozen=True, kw_only=True, tag="act"):
    """Harm done to the cluster, when ``in_turn`` of ``talkers`` conversations were in a turn."""

    at: float
    kind: str
    victim: str
    seconds: float
    in_turn: int
    talkers: int


Entry = Ask | Reply | Read | End | Listed | Act


class Log:
    """Appends entries to a file. Times are unix seconds."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._encode = msgspec.json.Encoder().encode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, entry: Entry) -> None:
        """Keep an entry."""
        self._file.write(self._encode(entry) + b"\n")


def read_log(path: Path) -> list[Entry]:
    """All entries of a log."""
    decode = msgspec.json.Decoder(Entry).decode
    return [decode(line) for line in path.read_bytes().splitlines()]


def now() -> float:
    """The time of an entry."""
    return time.time()
