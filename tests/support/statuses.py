"""Made-up clusters: what Serve knows of them, and what their processes report."""

from __future__ import annotations

from typing import Any

from cluster.engine.client import EngineStats
from cluster.metrics.board import Snapshot
from cluster.metrics.families import Report
from cluster.metrics.loading import Loading
from cluster.replica.metrics import EngineFamilies
from services.dispatcher.facts import DispatcherFacts
from services.dispatcher.families import dispatcher_families
from services.gateway.families import gateway_families
from services.gateway.metrics import GatewayCounters
from services.queue.base import QueueLag
from services.serve_facts import DeploymentFacts, ServedProcess, ServeFacts
from services.turns.metrics import TurnMetrics

NODE = "10.0.0.1"


def processes(**states: str) -> tuple[ServedProcess, ...]:
    """Processes by incarnation and state, all on one node."""
    return tuple(ServedProcess(name, state, NODE, 4000 + i) for i, (name, state) in enumerate(states.items()))


def facts(*, replicas: DeploymentFacts, gateways: DeploymentFacts | None = None, **fields: Any) -> ServeFacts:
    """A running application."""
    gateways = gateways or DeploymentFacts("HEALTHY", target=1, processes=processes(g1="RUNNING"))
    return ServeFacts(**{"state": "RUNNING", **fields}, replicas=replicas, gateways=gateways)


def deployment(target: int, *, state: str = "HEALTHY", message: str = "", **states: str) -> DeploymentFacts:
    """A deployment whose processes are given by incarnation and state."""
    return DeploymentFacts(state, message, target, processes(**states))


def replica_report(incarnation: str, rank: int, **stats: int) -> Report:
    """What a replica says of itself."""
    return Report(f"replica-{incarnation}", EngineFamilies()(EngineStats(**stats), rank=rank))


def gateway_report(incarnation: str, metrics: TurnMetrics | None = None) -> Report:
    """What a gateway says of itself."""
    return Report(f"gateway-{incarnation}", gateway_families(metrics or TurnMetrics(), GatewayCounters().snapshot()))


def dispatcher_report(incarnation: str, *, used: int = 0, lag: QueueLag | None = None) -> Report:
    """What a dispatcher says of itself and of the queue."""
    told = DispatcherFacts(used=used, slots=64, allowed=64, adopted=0, settled={}, lag=lag)
    return Report(f"dispatcher-{incarnation}", dispatcher_families(TurnMetrics(), told))


def failed(rank: int, incarnation: str, reason: str, failures: int = 1) -> Loading:
    """A rank whose attempts have failed; ``incarnation`` tries again."""
    return Loading(rank, incarnation, NODE, failures, reason, NODE)


def board(*reports: Report, loading: tuple[Loading, ...] = ()) -> Snapshot:
    """The board."""
    return Snapshot(list(reports), list(loading))
