"""The structured log of a process that Ray runs: one JSON object a line on the process's own standard error.

Serve puts a logger of its own in place of ``print``, ``sys.stdout`` and ``sys.stderr``, behind a buffer of a thousand
records: an error would be seen hours later, and after kill -9 never. ``sys.__stderr__`` still is the file that Ray
collects.

Errors are told by type and place, never by what they say: messages, locals and arguments may hold a prompt, an answer
or a key, and type and code line tell as much to whoever looks for the mistake.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_FRAMES = 12  # of a call stack, the innermost ones
_process = ""


def process() -> str:
    """Who speaks in this process's log, as ``configure`` was told; nothing before."""
    return _process


def configure(process: str, stream: TextIO | None = None) -> None:
    """Let all loggers of this process write at once, each line with time, level and ``process``.

    Args:
        process: who speaks, as in the metrics: ``replica-…`` or ``gateway-…``.
        stream: where to; standard error if left out.
    """
    global _process  # noqa: PLW0603 -- one per process, like structlog's own configuration
    _process = process
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _naming(process),
            _told,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.__stderr__),
    )


def fault_fields(error: BaseException) -> dict[str, str]:
    """Keys for a log line: the error's type, its cause's, and the calls that led to it, innermost first."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    cause = error.__cause__ or error.__context__
    fields = {
        "error": type(error).__qualname__,
        "where": " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames),
    }
    return fields | ({"cause": type(cause).__qualname__} if cause else {})


def _naming(process: str) -> Processor:
    def name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**event, "process": process}

    return name


def _told(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The keys of an error that comes with an event."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exception()
    return {**event, **fault_fields(error)} if isinstance(error, BaseException) else event
