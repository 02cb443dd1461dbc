"""``/status``: the whole cluster as its operator sees it.

States are Ray Serve's own words. Counters run since the process that counts began.
"""

from __future__ import annotations

from typing import Literal

from services.gateway.schemas.base import Shape


class Pages(Shape):
    """KV pages by what they are used for."""

    active: int
    cached: int
    free: int


class Load(Shape):
    """What a replica does now. Tokens waiting are prompt tokens not computed yet."""

    running: int
    waiting: int
    waiting_tokens: int
    tokens_per_second: float
    pages: Pages
    prompt_tokens: int
    cached_tokens: int
    cache_share: float | None  # cached / prompt tokens; null before the first turn


class ReplicaStatus(Shape):
    """A model replica. ``rank`` and ``load`` are null while it does not tell; ``reason`` is why it does not serve."""

    rank: int | None
    incarnation: str
    state: str
    reason: str | None
    node: str
    pid: int | None
    load: Load | None


class GatewayStatus(Shape):
    """An HTTP gateway. ``active_turns`` is null while it does not tell."""

    incarnation: str
    state: str
    node: str
    pid: int | None
    active_turns: int | None


class DispatcherStatus(Shape):
    """A process that carries out background turns. ``used_slots`` of ``slots`` are null while it does not tell."""

    incarnation: str
    state: str
    node: str
    pid: int | None
    used_slots: int | None
    slots: int | None


class QueueStatus(Shape):
    """Background turns: waiting, in work, to be tried again, and given up; since when the first one waits."""

    waiting: int
    working: int
    delayed: int
    dead: int
    oldest_s: float


class LoadFailureStatus(Shape):
    """A rank without a serving replica, because loading failed ``failures`` times in a row."""

    rank: int
    node: str
    failures: int
    reason: str


class TurnsStatus(Shape):
    """Turns of all gateways together."""

    active: int
    pinned: int
    spilled: int
    moved: int  # begun at another replica than the one that held the conversation
    placed: int
    failovers: int  # answers that went on at another replica
    rejected: dict[str, int]  # 429 and 503 by code
    prompt_tokens: int
    cached_tokens: int
    cache_share: float | None


class ClusterStatus(Shape):
    """Everything ``chatglm-cluster status`` shows. ``notes`` are sentences for the operator."""

    object: Literal["status"] = "status"
    state: str
    serving: int
    target_replicas: int
    target_gateways: int
    target_dispatchers: int
    replicas: list[ReplicaStatus]
    cannot_load: list[LoadFailureStatus]
    gateways: list[GatewayStatus]
    dispatchers: list[DispatcherStatus]
    queue: QueueStatus | None  # null while no dispatcher tells
    turns: TurnsStatus
    notes: list[str]
