"""The structured log of a process that Ray runs: one JSON object a line on the process's own standard error.

Serve puts a logger of its own in place of ``print``, ``sys.stdout`` and ``sys.stderr``, behind a buffer of a thousand
records: an error would be seen hours later, and after kill -9 never. ``sys.__stderr__`` still is the file that Ray
collects.
"""

from __future__ import annotations

import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

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
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.__stderr__),
    )


def _naming(process: str) -> Processor:
    def name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**event, "process": process}

    return name
