"""A written conversation: what is said to the model, what it is taught to answer, and what a right answer holds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Message:
    """A message; ``metadata`` is the name of the tool in a tool turn."""

    role: str
    content: str
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A message to the model and the answer that is taught.

    Attributes:
        kind: what is asked: a topic's name, ``tell``, ``recall``, ``untold``, ``sum``, ``tool``, ``observation``, …
        language: code of the language of question and answer.
        message: of the person or the tool.
        answer: of the model.
        needed: strings that a right answer holds.
    """

    kind: str
    language: str
    message: Message
    answer: Message
    needed: tuple[str, ...] = ()


@dataclass(slots=True)
class Dialogue:
    """A conversation. ``system`` stands in front when there is one."""

    system: Message | None = None
    turns: list[Turn] = field(default_factory=list)
