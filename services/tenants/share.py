"""What an operator gives a tenant: its share of a busy cluster, and limits and times of its own.

Weight and priority bind only among tenants that want more than theirs; alone, every tenant may use everything. The rest
holds for the tenant whatever others do; where nothing was given, the cluster's setting does. Callers set none of it: a
request may at most step down by one class (``Share.lowered``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypedDict

from cluster.errors import ConfigurationError, InvalidRequestError

DAY_S: Final = 86_400
LAST_CLASS: Final = 9
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "weight": (0.01, 1000),
    "priority": (0, LAST_CLASS),
    "history_ttl_days": (1, 3650),
    "resume_s": (0, 1800),
    "max_queued": (1, 1_000_000),
}
PARTS: Final = tuple(BOUNDS)
UNSET: Final = "default"  # what people write for a part that nothing is given for
_WHOLE: Final = {"priority", "max_queued"}


class ShareChange(TypedDict, total=False):
    """Parts to set; None is the default again. A part that is not there stays as it is."""

    weight: float | None
    priority: int | None
    history_ttl_days: float | None
    resume_s: float | None
    max_queued: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a tenant gets. The defaults are those of a tenant that was never given anything; None: the cluster's.

    Attributes:
        weight: of computing and of the cache; twice the weight gets twice as much.
        priority: class; waiting turns of a smaller one go first. 0 is for people who wait.
        history_ttl_days: how long its idle conversations are kept.
        resume_s: how long a stored turn goes on when its client has left; 0: it ends at once.
        max_queued: turns that it may have in the queue.

    Raises:
        InvalidRequestError: a value is out of ``BOUNDS``; ``param`` names which.
    """

    weight: float = 1.0
    priority: int = 0
    history_ttl_days: float | None = None
    resume_s: float | None = None
    max_queued: int | None = None

    def __post_init__(self) -> None:
        for part, (least, most) in BOUNDS.items():
            value = getattr(self, part)
            if value is not None and not least <= value <= most:  # nor is NaN
                raise _wrong(part, f"{value:.10g}")

    @property
    def history_ttl_s(self) -> int | None:
        """``history_ttl_days`` in seconds."""
        return None if self.history_ttl_days is None else round(self.history_ttl_days * DAY_S)

    def lowered(self) -> Share:
        """The same one class later; the last class stays."""
        return replace(self, priority=min(self.priority + 1, LAST_CLASS))


DEFAULT: Final = Share()


def check_change(change: ShareChange) -> None:
    """Raises InvalidRequestError when a value is wrong, or nothing is changed."""
    if not change:
        raise InvalidRequestError(f"Give at least one of {', '.join(PARTS)}.", param=PARTS[0])
    share_of(change)


def share_of(parts: Mapping[str, Any]) -> Share:
    """The share in which these parts are given. Raises InvalidRequestError."""
    return Share(**{part: value for part, value in parts.items() if value is not None})


def parse_part(part: str, text: str) -> float:
    """A part that was written as text. Raises InvalidRequestError unless it is a number within its bounds."""
    try:
        value: float = int(text) if part in _WHOLE else float(text)
    except ValueError as error:
        raise _wrong(part, text) from error
    share_of({part: value})
    return value


def decode_share(tenant: str, stored: Mapping[str, bytes | None]) -> Share:
    """The share from its stored parts: numbers as text; None was never set. What is no part is passed over.

    Raises:
        ConfigurationError: a part is no such number; somebody has changed it by hand.
    """
    given = {part: text for part, text in stored.items() if part in BOUNDS and text is not None}
    return share_of({part: _decoded(tenant, part, text) for part, text in given.items()})


def _decoded(tenant: str, part: str, text: bytes) -> float:
    try:
        return parse_part(part, text.decode(errors="replace"))
    except InvalidRequestError as error:
        option = part.replace("_", "-")
        raise ConfigurationError(
            f"The stored {part} of tenant {tenant} cannot be read; "
            f"write it anew with `chatglm-cluster tenant set {tenant} --{option} {UNSET}`."
        ) from error


def _wrong(part: str, value: str) -> InvalidRequestError:
    least, most = BOUNDS[part]
    kind = "a whole number from " if part in _WHOLE else ""
    return InvalidRequestError(f"A tenant's {part} is {kind}{least:.10g} to {most:.10g}, not {value}.", param=part)
