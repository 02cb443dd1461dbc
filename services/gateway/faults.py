"""Unexpected errors in the log, by type and place."""

from __future__ import annotations

import structlog

from cluster.logs import fault_fields

log = structlog.get_logger(__name__)


def report(event: str, error: BaseException) -> None:
    """Log an error that nobody expected."""
    log.error(event, **fault_fields(error))
