"""What a replica reports about its engine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from cluster.engine.client import EngineStats
from cluster.engine.tenant_use import TenantUse
from cluster.metrics.families import Family, counter, gauge

RATE_WINDOW_S = 5.0


class EngineFamilies:
    """Families from engine snapshots; keeps a short history of one counter to give a rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._history: deque[tuple[float, int]] = deque()

    def __call__(self, stats: EngineStats, *, rank: int, aborts: int = 0) -> list[Family]:
        """All families of one snapshot of the replica that has ``rank``.

        ``aborts`` counts attempts whose owner or caller left.
        """
        return [
            gauge("chatglm_replica_rank", "The replica's rank; a replacement takes over its predecessor's.", rank),
            counter("chatglm_generated_tokens", "Tokens sampled by the engine.", stats.output_tokens),
            counter("chatglm_prompt_tokens", "Prompt tokens of accepted turns.", stats.prompt_tokens),
            counter("chatglm_cached_tokens", "Prompt tokens whose KV was in the cache.", stats.cached_tokens),
            gauge("chatglm_tokens_per_second", "Tokens sampled per second, over 5 s.", self._rate(stats.output_tokens)),
            gauge("chatglm_turns", "Turns in the engine.", _turns(stats), label="state"),
            gauge("chatglm_waiting_tokens", "Prompt tokens still to be computed.", stats.waiting_tokens),
            gauge("chatglm_pages", "KV pages by state.", _pages(stats), label="state"),
            counter("chatglm_engine_steps", "Engine steps.", stats.steps),
            counter("chatglm_preemptions", "Sequences that gave their pages up and started over.", stats.preemptions),
            counter("chatglm_aborted_attempts", "Attempts whose owner or caller left.", aborts),
            counter("chatglm_evicted_pages", "Cached pages given to others.", stats.evicted_pages),
            *_tenant_families(stats.tenants),
        ]

    def _rate(self, tokens: int) -> float:
        now = self._clock()
        self._history.append((now, tokens))
        while len(self._history) > 2 and now - self._history[1][0] >= RATE_WINDOW_S:
            self._history.popleft()
        then, before = self._history[0]
        return (tokens - before) / (now - then) if now > then else 0.0


def _turns(stats: EngineStats) -> dict[str, float]:
    return {"running": stats.running, "waiting": stats.waiting}


def _pages(stats: EngineStats) -> dict[str, float]:
    free = stats.pages_total - stats.pages_active - stats.pages_cached
    return {"active": stats.pages_active, "cached": stats.pages_cached, "free": free}


def _tenant_families(tenants: Mapping[str, TenantUse]) -> list[Family]:
    """The cache by tenant: a bounded number of names, see ``tenant_use``."""

    def by_tenant(figure: Callable[[TenantUse], int]) -> dict[str, float]:
        return {name: figure(use) for name, use in tenants.items()}

    active, cached = by_tenant(lambda use: use.active_pages), by_tenant(lambda use: use.cached_pages)
    hits, misses = by_tenant(lambda use: use.hit_tokens), by_tenant(lambda use: use.miss_tokens)
    evicted = by_tenant(lambda use: use.evicted_pages)
    return [
        gauge("chatglm_tenant_active_pages", "KV pages that a tenant's turns hold.", active, label="tenant"),
        gauge("chatglm_tenant_cached_pages", "KV pages that are kept for a tenant.", cached, label="tenant"),
        counter("chatglm_tenant_hit_tokens", "Prompt tokens found in the cache, in whole pages.", hits, label="tenant"),
        counter("chatglm_tenant_miss_tokens", "Prompt tokens not found, in whole pages.", misses, label="tenant"),
        counter("chatglm_tenant_evicted_pages", "Cached pages that a tenant lost.", evicted, label="tenant"),
    ]
