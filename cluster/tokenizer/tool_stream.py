"""A tool's call as it is written: its name once, then its arguments as growing JSON.

What was given out never changes: an argument is told when the comma or bracket behind it is there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cluster.tokenizer.literals import parse_settled

_FUNCTION = "tool_call"
_FENCE = "```"


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """News of a call. ``name`` comes once, in the first; ``arguments`` joined are one JSON object."""

    name: str = ""
    arguments: str = ""


class ToolCallStream:
    """Reads one tool turn piece by piece. ``is_whole`` says whether the call's closing bracket has come.

    A text that turns out to be no call gives no arguments; ``read_call`` of the whole says why.
    """

    def __init__(self) -> None:
        self.is_whole = False
        self._text = ""
        self._is_named = False
        self._told = 0  # arguments

    def push(self, text: str) -> ToolCallDelta | None:
        """What the next text adds, or None when that is nothing."""
        self._text += text
        header, newline, body = self._text.partition("\n")
        name = header.strip()
        if not newline or not name or self.is_whole:
            return None
        delta = ToolCallDelta("" if self._is_named else name, self._news(body))
        self._is_named = True
        return delta if delta.name or delta.arguments else None

    def _news(self, body: str) -> str:
        opening, newline, call = body.lstrip().partition("\n")
        if not newline or not opening.startswith(_FENCE):
            return ""
        call = call.rstrip().rstrip(_FENCE[0])  # the closing fence, or what has come of it, is no part of the call
        settled, self.is_whole = parse_settled(call, _FUNCTION)
        news = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in settled.items()]
        opened = "" if self._told or not (news or self.is_whole) else "{"
        separator = ", " if self._told and len(news) > self._told else ""
        added = opened + separator + ", ".join(news[self._told :]) + ("}" if self.is_whole else "")
        self._told = max(self._told, len(news))
        return added
