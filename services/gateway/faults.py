"""Unexpected errors in the log: what and where, never with which values.

Messages, locals and arguments of an error may hold a prompt, an answer or a key; type and code line tell as much to
whoever looks for the mistake.
"""

from __future__ import annotations

import traceback
from pathlib import Path

import structlog

_FRAMES = 12  # the innermost ones

log = structlog.get_logger(__name__)


def report(event: str, error: BaseException) -> None:
    """Log an error that nobody expected."""
    log.error(event, **fault_fields(error))


def fault_fields(error: BaseException) -> dict[str, str]:
    """Keys for a log line: the error's type, its cause's, and the calls that led to it, innermost first."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    cause = error.__cause__ or error.__context__
    fields = {
        "error": type(error).__qualname__,
        "where": " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames),
    }
    return fields | ({"cause": type(cause).__qualname__} if cause else {})
