"""Which turns of a conversation that no longer fits the context the model still sees (``truncation: auto``).

Turns are dropped whole, oldest first, and a stride at once. A cut moves every later message to another place, so behind
it the cache holds nothing that the prompt can use; a window that moved by just what is missing would be computed anew
each turn. By strides most turns begin with all that the turn before has computed.

What is dropped follows from the messages' lengths alone, counted from the first of them. So it stays dropped: for a
stored conversation, which counts from where its last window began, and for a history that grows and always comes whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import Final

from services.turns.events import Role

MAX_LEAD: Final = 20  # leading system messages that always stay; more of them are part of the first turn

# The stride, as a part of what the window may hold. A window that holds S and drops f*S has each token computed 1/f
# times and remembers (1 - f/2)*S on average: docs/benchmarks/window.md shows what that means for chats.
STRIDE: Final = 0.5

_RESERVED: Final = 4  # one part in so many of the context is the answer's where nobody says how long it may be
_OPENING: Final = (Role.USER, Role.SYSTEM)


def lead(roles: Sequence[str]) -> int:
    """How many system messages a conversation begins with, as far as they always stay."""
    return sum(1 for _ in takewhile(lambda role: role == Role.SYSTEM, roles[:MAX_LEAD]))


def space(context_length: int, max_tokens: int | None, always: int) -> int:
    """Tokens that the window and the new input may have; less than one where they may have none.

    ``max_tokens`` are reserved for the answer, or a quarter of the context; ``always`` are what every prompt of the
    conversation has (instructions, leading system messages, the template's own).
    """
    reserved = context_length // _RESERVED if max_tokens is None else max_tokens
    return context_length - reserved - always


def first(roles: Sequence[str], tokens: Sequence[int], *, num_new: int, space: int, stride: float = STRIDE) -> int:
    """Index of the first message that stays, 0 where all do.

    Args:
        roles: of the messages behind the leading ones, the new input included. The first begins a turn, or is a rest
            of one in front of more than ``space`` tokens.
        tokens: of each message.
        num_new: the newest messages. They are cut only where leaving out all in front of them is not enough. The newest
            turn never is, and may exceed ``space``.
        space: tokens that may stay.
        stride: part of ``space`` that is dropped at once.
    """
    offsets = [0, *accumulate(tokens)]
    excess = offsets[-1] - space
    if excess <= 0:
        return 0
    starts = _turn_starts(roles)
    old = [i for i in starts if i <= len(roles) - num_new]
    if offsets[-1] - offsets[old[-1]] <= space:
        starts = old
    step = max(int(space * stride), 1)
    dropped = -(-excess // step) * step
    found = next((i for i in starts if offsets[i] >= dropped), starts[-1])
    # Something is remembered where it can be, even if the next turn has to cut again.
    before = max((i for i in starts[:-1] if offsets[-1] - offsets[i] <= space), default=found)
    return min(found, before)


def _turn_starts(roles: Sequence[str]) -> list[int]:
    """A turn begins where the user, or a system message, follows an answer; a tool's result belongs to its call."""
    later = [i for i in range(1, len(roles)) if roles[i] in _OPENING and roles[i - 1] == Role.ASSISTANT]
    return [0, *later]
