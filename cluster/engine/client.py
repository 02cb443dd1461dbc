"""How a replica or a test talks to an engine, wherever it runs (a thread here, later a process)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from cluster.engine.tenant_use import TenantUse
from cluster.protocol import Finish, Forgotten, GenerateRequest, Label, Tokens

StepOutput = tuple[int, Tokens | Finish]  # (attempt, event)
Sink = Callable[[Sequence[StepOutput]], None]


class EngineStats(msgspec.Struct, frozen=True):
    """A snapshot of counters (monotonic since start) and levels (now). Cheap: no lock is held while stepping."""

    running: int = 0  # level: sequences in the batch
    waiting: int = 0  # level: sequences queued
    waiting_tokens: int = 0  # level: prompt tokens still to be computed, queued and running
    prefill_rate: float = 0.0  # level: prompt tokens computed per second while prompts queue; 0: not measured yet
    computed_share: float = 1.0  # level: share of admitted sequences' tokens that the cache did not hold
    pages_total: int = 0  # level: pages that can hold tokens
    pages_active: int = 0  # level: pages some sequence holds
    pages_cached: int = 0  # level: pages kept for reuse, evictable
    prompt_tokens: int = 0  # counter: of accepted sequences
    cached_tokens: int = 0  # counter: prompt tokens served from the cache
    output_tokens: int = 0  # counter: tokens sampled
    steps: int = 0  # counter
    preemptions: int = 0  # counter
    evicted_pages: int = 0  # counter
    tenants: dict[str, TenantUse] = {}  # by name, at most a second old


class EngineClient(Protocol):
    """An engine. ``sink`` is called on the caller's event loop, once per engine step, with all rows' outputs."""

    async def start(self, sink: Sink) -> None:
        """Load, warm up, and begin to step. Raises CheckpointError or ConfigurationError."""
        ...

    async def submit(self, request: GenerateRequest) -> None:
        """Queue a request. Raises OverloadedError or ContextLengthExceededError before anything is computed."""
        ...

    async def abort(self, attempt: int) -> None:
        """End an attempt within two steps and free its pages; unknown attempts are ignored."""
        ...

    async def forget(self, label: Label) -> Forgotten:
        """Free the KV pages of a label after the step under way. Raises NoReplicaError when the engine has stopped."""
        ...

    def stats(self) -> EngineStats:
        """The latest snapshot."""
        ...

    def is_stalled(self) -> bool:
        """Whether the step under way takes far longer than steps of its size did, or the engine has died."""
        ...

    def stalled_for_s(self) -> float:
        """Seconds since the step under way began; 0 between steps, infinity when the engine has died."""
        ...

    async def stop(self) -> None:
        """Abort what runs and release the device."""
        ...
