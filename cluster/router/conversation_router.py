"""The pinning policy inside Ray Serve: one instance per process that holds a handle.

Serve ships this class to every handle owner, so it keeps no client and no state of its own. It always returns every
replica, each in a rank of its own: without fallbacks, waiters for a full replica block turns for idle ones.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from cluster.router.pinning import Candidate, Wish, folded, order, preferred

_TOLD = 4  # of the order; a turn gives up before it needs more


class ConversationRouter(RequestRouter):
    """Routes by the call's keyword argument ``route``: ``{"pin_key", "hint", "avoid", "suspects", "busy"}``.

    Before the call leaves, ``route["first"]`` and ``route["is_first_full"]`` are filled in, from which the replica
    says why it was chosen, and ``route["order"]``, from which the caller knows whom it waits for.
    """

    def initialize_state(self, soft_capacity: int = 64, **_: Any) -> None:
        """Take the number of turns a replica may hold before others are preferred."""
        self.soft_capacity = soft_capacity

    @property
    def max_num_routing_tasks(self) -> int:
        """Turns routed at once; Serve's default (twice the replicas) makes turns wait behind each other."""
        return max(64, 2 * len(self.curr_replicas))

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take Serve's list of running replicas, and tell the rest of this process."""
        from cluster.router.membership import MEMBERSHIP  # noqa: PLC0415 - by name: this class is shipped by value

        MEMBERSHIP.publish(replica.replica_id.unique_id for replica in replicas)
        super().update_replicas(replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All replicas in order of preference, one per rank."""
        route: dict[str, Any] = {}
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            route = pending_request.kwargs.get("route") or {}
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        candidates = self._candidates(candidate_replicas, route.get("busy", ()))
        wish = Wish(
            route.get("pin_key", ""),
            route.get("hint", ""),
            frozenset(route.get("avoid", ())),
            route.get("suspects", ()),
        )
        ordered = [candidate.incarnation for candidate in order(candidates, wish)]
        if first := preferred(candidates, wish):
            route["first"], route["is_first_full"] = first.incarnation, first.is_full
        route["order"] = ordered[:_TOLD]
        return [[replicas[incarnation]] for incarnation in ordered]

    def _candidates(self, replicas: list[RunningReplica], busy: Collection[str]) -> list[Candidate]:
        facts = {replica.replica_id.unique_id: _facts(replica) for replica in replicas}
        size = max((int(fact.get("size") or 0) for fact in facts.values()), default=0)
        ranks = folded({name: int(fact.get("rank", 0)) for name, fact in facts.items()}, size)
        return [
            Candidate(
                incarnation=replica.replica_id.unique_id,
                rank=ranks[replica.replica_id.unique_id],
                load=max(self._queue_length(replica.replica_id), int(replica.routing_stats.get("load", 0))),
                capacity=0 if replica.replica_id.unique_id in busy else self.soft_capacity,
            )
            for replica in replicas
        ]

    def _queue_length(self, replica: ReplicaID) -> int:
        return self.replica_queue_len_cache.get(replica) or 0


def _facts(replica: RunningReplica) -> dict[str, Any]:
    """What a replica said about itself: lately, or else when it became ready."""
    return replica.routing_stats or replica.replica_metadata
