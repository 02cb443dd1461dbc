"""Whose tokens an indexed page holds, so that it can go when these are erased.

A page belongs to the sequences of one tenant with one label (``GenerateRequest.pin_key``: a stored conversation with
its branches), of which one has computed it. Others of the tenant that begin alike find it and go on from there, but it
stays its maker's. When that owner is erased, the pages that others went on from become theirs; the rest is freed, see
``BlockManager.forget``.

An owner does not list its pages. It knows where they begin: pages of one conversation continue each other, so there
are few such places, and the way down from them meets no pages but its own and the first ones of others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakValueDictionary


@dataclass(slots=True, eq=False, weakref_slot=True)
class Owner:
    """The sequences of one salt and label, for as long as one of them or a page of theirs is there.

    Attributes:
        heads: numbers of those of its pages that do not continue a page of its own, or did not once.
        is_erased: its pages are freed as soon as nobody holds them. Never undone: who comes later under the same label
            is another owner.
    """

    heads: set[int] = field(default_factory=set)
    is_erased: bool = False


NOBODY = Owner()  # owns the roots, which are no pages


class Owners:
    """The owners that are not erased, by salt and label."""

    def __init__(self) -> None:
        self._owners: WeakValueDictionary[tuple[str, str], Owner] = WeakValueDictionary()

    def of(self, salt: str, label: str) -> Owner:
        """The owner of this salt and label, new if there is none."""
        owner = self._owners.get((salt, label))
        if owner is None:
            owner = self._owners[salt, label] = Owner()
        return owner

    def erase(self, salt: str, label: str) -> Owner | None:
        """The owner, erased from now on; None if there is none."""
        owner = self._owners.pop((salt, label), None)
        if owner is not None:
            owner.is_erased = True
        return owner

    def debug_check(self) -> None:
        """Assert that only owners with something to own are remembered."""
        assert not any(owner.is_erased for owner in self._owners.values()), "an erased owner is found"
