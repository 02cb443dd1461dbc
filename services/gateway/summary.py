"""The facts of one request that its log line tells; filled in as they become known.

It travels in the ASGI scope, so that a route, an error handler and the outermost middleware see the same object.
Prompts, answers and keys have no place here.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

from cluster.protocol import Usage

_KEY = "chatglm.summary"


@dataclass(slots=True)
class RequestSummary:
    """Facts of one request. ``outcome`` is ``done``, ``client_gone``, ``slow_client`` or ``failed``."""

    request_id: str
    method: str
    started_at: float = field(default_factory=perf_counter)  # seconds, monotonic
    status: int = 0  # 0: nothing was sent
    outcome: str = "done"
    tenant: str = ""
    error_code: str = ""
    rank: int | None = None
    first_text_s: float | None = None  # from the request's arrival to its answer's first text
    usage: Usage | None = None
    tool_calls: int = 0

    def fields(self) -> dict[str, object]:
        """The log line's keys; unknown facts are left out."""
        usage = self.usage
        facts: dict[str, object | None] = {
            "request_id": self.request_id,
            "method": self.method,
            "status": self.status,
            "outcome": self.outcome,
            "duration_ms": round((perf_counter() - self.started_at) * 1e3, 1),
            "first_text_ms": None if self.first_text_s is None else round(self.first_text_s * 1e3, 1),
            "tenant": self.tenant or None,
            "error_code": self.error_code or None,
            "rank": self.rank,
            "prompt_tokens": usage and usage.prompt_tokens,
            "cached_tokens": usage and usage.cached_tokens,
            "output_tokens": usage and usage.output_tokens,
            "tool_calls": self.tool_calls or None,
        }
        return {key: value for key, value in facts.items() if value is not None}


def attach(scope: MutableMapping[str, Any], summary: RequestSummary) -> None:
    """Put the request's summary into its scope."""
    scope[_KEY] = summary


def summary_of(scope: MutableMapping[str, Any]) -> RequestSummary:
    """The request's summary."""
    return cast("RequestSummary", scope[_KEY])
