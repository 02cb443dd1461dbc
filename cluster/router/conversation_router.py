"""The pinning policy inside Ray Serve: one instance per process that holds a handle.

Serve ships this class to every handle owner, so it keeps no client and no state of its own. It always returns every
replica, each in a rank of its own: without fallbacks, waiters for a full replica block turns for idle ones.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from cluster.router.pinning import Candidate, Wish, order, preferred


class ConversationRouter(RequestRouter):
    """Routes by the ``route`` keyword argument of the call: ``{"pin_key", "hint", "avoid"}``.

    Before the call leaves, ``route["first"]`` and ``route["hint_alive"]`` are filled in: from them the replica says why
    it was chosen.
    """

    def initialize_state(self, soft_capacity: int = 64, **_: Any) -> None:
        """Take the number of turns a replica may hold before others are preferred."""
        self.soft_capacity = soft_capacity

    @property
    def max_num_routing_tasks(self) -> int:
        """Turns routed at once; Serve's default (twice the replicas) makes turns wait behind each other."""
        return max(64, 2 * len(self.curr_replicas))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All replicas in order of preference, one per rank."""
        route: dict[str, Any] = {}
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            route = pending_request.kwargs.get("route") or {}
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        candidates = [self._candidate(replica) for replica in candidate_replicas]
        wish = Wish(route.get("pin_key", ""), route.get("hint", ""), frozenset(route.get("avoid", ())))
        route["first"] = preferred(candidates, wish)
        route["hint_alive"] = wish.hint in replicas and wish.hint not in wish.avoid
        return [[replicas[candidate.incarnation]] for candidate in order(candidates, wish)]

    def _candidate(self, replica: RunningReplica) -> Candidate:
        identity: ReplicaID = replica.replica_id
        return Candidate(
            incarnation=identity.unique_id,
            rank=int(replica.routing_stats.get("rank", replica.replica_metadata.get("rank", 0))),
            load=max(self.replica_queue_len_cache.get(identity) or 0, int(replica.routing_stats.get("load", 0))),
            capacity=min(self.soft_capacity, replica.max_ongoing_requests),
        )
