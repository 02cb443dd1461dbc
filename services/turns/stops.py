"""Stop strings over a text that arrives in pieces.

They are text, not ids: a stop string may begin in the middle of one id and end in the middle of another. So the end of
the text that may still become one is held back, and what has been let out is never taken back.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text out up to the first stop string. The first to be complete wins; of those, the one that began first.

    That rule looks at characters, so the outcome does not depend on how the text was cut into pieces.

    Attributes:
        held: the end of the text so far that is the beginning of some stop string.
        is_matched: a stop string was found; nothing more goes out.
    """

    __slots__ = ("_stops", "held", "is_matched")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self.held = ""
        self.is_matched = False

    def push(self, text: str) -> str:
        """Take more text; the part that can no longer belong to a stop string."""
        if not self._stops:
            return text
        text = self.held + text
        start = self._find(text)
        self.is_matched = start is not None
        out = len(text) - self._open_end(text) if start is None else start
        self.held = "" if self.is_matched else text[out:]
        return text[:out]

    def flush(self) -> str:
        """No text follows: what was held back is not a stop string."""
        held, self.held = self.held, ""
        return held

    def _find(self, text: str) -> int | None:
        # A match cannot begin before ``held``: what went out is no beginning of any stop string.
        found = ((text.find(stop), len(stop)) for stop in self._stops)
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None

    def _open_end(self, text: str) -> int:
        return max(_overlap(text, stop) for stop in self._stops)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    first = stop[0]
    longest = min(len(stop) - 1, len(text))
    start = text.find(first, len(text) - longest)
    while start >= 0:
        if stop.startswith(text[start:]):
            return len(text) - start
        start = text.find(first, start + 1)
    return 0
