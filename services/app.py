"""The composition root: turns arguments into the Serve application.

``services.app:build`` is the ``import_path`` of the application, here and in a RayService.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from cluster.replica.config import ReplicaConfig
from cluster.replica.deployment import Replica
from services.gateway.config import GatewayConfig
from services.gateway.deployment import Gateway

REPLICA = "Replica"
GATEWAY = "Gateway"
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 30.0


class AppArgs(BaseModel):
    """Arguments of the application; every value is resolved (no ``auto``).

    Numbers of replicas and gateways are not among them: Serve replaces every replica when an argument changes, so they
    are set per deployment in the Serve config.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_path: str
    model_name: str
    redis_url: str
    device: str
    dtype: str
    threads: int
    kv_cache_bytes: int | None
    max_num_seqs: int
    max_batched_tokens: int
    max_waiting: int
    history_ttl_s: int
    longest_turn_s: int


def build(args: AppArgs) -> Application:
    """The application: gateways, which hold a handle to the replicas."""
    config = ReplicaConfig(
        model_path=args.model_path,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        kv_cache_bytes=args.kv_cache_bytes,
        max_num_seqs=args.max_num_seqs,
        max_batched_tokens=args.max_batched_tokens,
        max_waiting=args.max_waiting,
    )
    replica = serve.deployment(
        Replica,
        name=REPLICA,
        max_ongoing_requests=config.max_ongoing_requests,
        request_router_config=RequestRouterConfig(
            request_router_class="cluster.router.conversation_router.ConversationRouter",
            request_router_kwargs={"soft_capacity": args.max_num_seqs},
            request_routing_stats_period_s=1,
            request_routing_stats_timeout_s=5,
        ),
        ray_actor_options={"num_cpus": 0, "num_gpus": 1 if args.device == "cuda" else 0},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=args.longest_turn_s,
        graceful_shutdown_wait_loop_s=0.2,
    ).bind(config)
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        name=GATEWAY,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=args.longest_turn_s,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return gateway.bind(
        GatewayConfig(
            model_path=args.model_path,
            model_name=args.model_name,
            redis_url=args.redis_url,
            history_ttl_s=args.history_ttl_s,
        ),
        replica,
    )
