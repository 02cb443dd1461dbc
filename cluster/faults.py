"""Errors as data: an error of the project crosses to the other process as itself, with its text and its values.

What others raise while a model loads (allocators, the file system) cannot be told apart by class in general; the few
kinds that somebody asks for keep theirs, all others become a RuntimeError that names them.
"""

from __future__ import annotations

import msgspec

from cluster import errors
from cluster.errors import ClusterError

_OURS: dict[str, type[ClusterError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ClusterError)
}
_OTHERS: dict[str, type[Exception]] = {kind.__name__: kind for kind in (MemoryError, RuntimeError)}


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """An error. ``values`` are its attributes (``param``, ``retry_after_s``, …)."""

    kind: str
    message: str
    values: dict[str, str | int | float | None] = {}


def to_fault(error: Exception) -> Fault:
    """The error as data."""
    name = type(error).__name__
    if name in _OURS:
        return Fault(name, str(error), vars(error))
    for kind in _OTHERS.values():
        if isinstance(error, kind):
            return Fault(kind.__name__, str(error))
    return Fault(RuntimeError.__name__, f"{name}: {error}")


def to_error(fault: Fault) -> Exception:
    """The error again: same class, text and attributes."""
    if fault.kind in _OTHERS:
        return _OTHERS[fault.kind](fault.message)
    kind = _OURS.get(fault.kind, ClusterError)  # the other side may be a version that knows more
    error = kind.__new__(kind, fault.message)  # each class's own __init__ would compose the text anew
    vars(error).update(fault.values)
    return error
