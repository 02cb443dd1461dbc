"""The Ray Serve deployment of a replica: engine, token channel, health, routing facts and metrics."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any

import msgspec
from ray import serve

from cluster import logs
from cluster.channel.connection import SECRET_VARIABLE
from cluster.engine.client import EngineClient
from cluster.metrics.deployment import LoadingDesk, Reporter
from cluster.protocol import GenerateRequest
from cluster.replica.config import ReplicaConfig
from cluster.replica.engine import build_engine
from cluster.replica.forgetting import decode_labels, encode_emptied
from cluster.replica.load import figures
from cluster.replica.loading import signed_in
from cluster.replica.metrics import EngineFamilies
from cluster.replica.outcome import encode_outcome
from cluster.replica.turns import ReplicaTurns
from cluster.router.pinning import Wish, published_load, reason


class Replica:
    """One model replica. Callers use ``generate`` through a handle and read tokens from the channel."""

    async def __init__(self, config: ReplicaConfig) -> None:  # type: ignore[misc] # Serve awaits it
        """Load the checkpoint; Serve counts the replica as ready when this returns."""
        context = serve.get_replica_context()
        self._incarnation = context.replica_id.unique_id
        logs.configure(f"replica-{self._incarnation}")
        self._capacity = config.max_num_seqs
        secret = os.environ[SECRET_VARIABLE].encode()
        self._decoder = msgspec.msgpack.Decoder(GenerateRequest)
        async with signed_in(LoadingDesk(rank=self._rank(), incarnation=self._incarnation)):
            self._engine = self.make_engine(config)
            self._turns = ReplicaTurns(self._engine, incarnation=self._incarnation, secret=secret)
            await self._turns.start()
        families = EngineFamilies()
        self._reporter = Reporter(
            f"replica-{self._incarnation}",
            lambda: families(self._engine.stats(), rank=self._rank(), aborts=self._turns.aborts),
        )
        self._reporting = asyncio.get_running_loop().create_task(self._reporter.run())

    @staticmethod
    def make_engine(config: ReplicaConfig) -> EngineClient:
        """The engine of this replica, not started yet; a subclass may bring another one."""
        return build_engine(config)

    async def generate(self, payload: bytes, *, route: dict[str, Any]) -> bytes:
        """Run one attempt.

        Args:
            payload: MessagePack of ``GenerateRequest``.
            route: what the router was asked and what it found, see ``ConversationRouter``.

        Returns:
            MessagePack of ``cluster.replica.outcome.Outcome``.
        """
        request = self._decoder.decode(payload)
        wish = Wish(route.get("pin_key", ""), route.get("hint", ""), route.get("avoid", ()))
        first, is_first_full = route.get("first", ""), route.get("is_first_full", False)
        why = reason(wish, first=first, is_first_full=is_first_full, chosen=self._incarnation)
        return encode_outcome(await self._turns.generate(request, rank=self._rank(), why=why))

    async def forget(self, payload: bytes) -> bytes:
        """Drop the KV of labels, see ``cluster.replica.forgetting``. Owners call it on every replica at once."""
        return encode_emptied(self._incarnation, await self._turns.forget(decode_labels(payload)))

    def record_replica_metadata(self) -> dict[str, Any]:
        """Facts the routers learn once."""
        return self._place()

    def record_routing_stats(self) -> dict[str, Any]:
        """Facts the routers learn about once a second."""
        stats = self._engine.stats()
        return {**self._place(), "load": published_load(stats.running + stats.waiting, self._capacity)}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Figures for ``cluster.scaling``; asked for only where the number of replicas is not fixed."""
        return figures(self._engine.stats(), capacity=self._capacity)

    def check_health(self) -> None:
        """Raises when the engine hangs or has died; Serve replaces the replica after three such answers in a row."""
        if self._engine.is_stalled():
            stalled_for_s = self._engine.stalled_for_s()
            how = "has died" if math.isinf(stalled_for_s) else f"has not moved for {stalled_for_s:.0f} s"
            raise RuntimeError(f"the engine {how}")

    async def __del__(self) -> None:
        """Serve awaits this once the last turn has ended."""
        if hasattr(self, "_reporting"):  # also called after a constructor that failed, which has ended its engine
            self._reporting.cancel()
            await self._turns.stop()

    def _place(self) -> dict[str, int]:
        """Rank, and how many replicas there should be (0: not a fixed number)."""
        return {"rank": self._rank(), "size": serve.get_replica_context().world_size or 0}

    @staticmethod
    def _rank() -> int:
        return int(serve.get_replica_context().rank.rank)
