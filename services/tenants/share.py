"""A tenant's share: how much of a busy cluster it gets, and how early.

A share binds only among tenants that want more than theirs; alone, every tenant may use everything. The operator sets
it, callers never do: a request may at most step down by one class (``Share.lowered``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cluster.errors import ConfigurationError, InvalidRequestError

MIN_WEIGHT: Final = 0.01
MAX_WEIGHT: Final = 1000.0
LAST_CLASS: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a tenant gets. The defaults are those of a tenant that was never given anything.

    Attributes:
        weight: of computing and of the cache, 0.01 to 1000; twice the weight gets twice as much.
        priority: class, 0 to 9; waiting turns of a smaller one go first. 0 is for people who wait.

    Raises:
        InvalidRequestError: a value is out of these bounds; ``param`` names which.
    """

    weight: float = 1.0
    priority: int = 0

    def __post_init__(self) -> None:
        if not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:  # nor is NaN
            raise InvalidRequestError(
                f"A tenant's weight is {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, not {self.weight:g}.", param="weight"
            )
        if not 0 <= self.priority <= LAST_CLASS:
            raise InvalidRequestError(
                f"A tenant's priority is a class from 0 (first) to {LAST_CLASS} (last), not {self.priority}.",
                param="priority",
            )

    def changed(self, *, weight: float | None, priority: int | None) -> Share:
        """The same with what is given (not None) put in its place.

        Raises:
            InvalidRequestError: a value is wrong, or nothing is given.
        """
        if weight is None and priority is None:
            raise InvalidRequestError("Give a weight, a priority or both.", param="weight")
        return Share(
            weight=self.weight if weight is None else weight, priority=self.priority if priority is None else priority
        )

    def lowered(self) -> Share:
        """The same one class later; the last class stays."""
        return replace(self, priority=min(self.priority + 1, LAST_CLASS))


DEFAULT: Final = Share()


def encode_share(*, weight: float | None = None, priority: int | None = None) -> dict[str, str]:
    """Those parts that are given (not None), as text. A float's ``repr`` is read back as the same float."""
    parts = {"weight": None if weight is None else repr(float(weight)), "priority": priority}
    return {name: str(part) for name, part in parts.items() if part is not None}


def decode_share(tenant: str, *, weight: bytes | None, priority: bytes | None) -> Share:
    """The share from its stored parts; None is one that was never set.

    Raises:
        ConfigurationError: a part is not what ``encode_share`` writes; somebody has changed it by hand.
    """
    try:
        return Share(
            weight=DEFAULT.weight if weight is None else float(weight),
            priority=DEFAULT.priority if priority is None else int(priority),
        )
    except (ValueError, InvalidRequestError) as error:
        raise ConfigurationError(
            f"The stored share of tenant {tenant} cannot be read; "
            f"write it anew with `chatglm-cluster tenant set {tenant} --weight 1 --priority 0`."
        ) from error
