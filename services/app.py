"""The composition root: turns arguments into the Serve application.

``services.app:build`` is the ``import_path`` of the application, here and in a RayService.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from cluster.replica.config import ReplicaConfig
from cluster.replica.deployment import Replica
from services.args import DISPATCHER, GATEWAY, REPLICA, AppArgs
from services.dispatcher.deployment import Dispatcher
from services.dispatcher.settings import DispatcherSettings
from services.gateway.deployment import Gateway
from services.ray_environment import END_S
from services.turn_process.config import ProcessConfig

HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 30.0
SOME_CPU = 0.001  # Ray spreads actors over the nodes, but puts those that ask for nothing anywhere


def build(arguments: dict[str, Any]) -> Application:
    """The application: gateways and dispatchers, over replicas. ``arguments`` are those of ``AppArgs``."""
    return compose(AppArgs.model_validate(arguments), Replica)


def compose(args: AppArgs, replica_class: type[Replica]) -> Application:
    """The application over a kind of replica."""
    config = ReplicaConfig(
        model_path=args.model_path,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        kv_cache_bytes=args.kv_cache_bytes,
        max_num_seqs=args.max_num_seqs,
        max_batched_tokens=args.max_batched_tokens,
        max_prefill_while_decoding=args.max_prefill_while_decoding,
        max_waiting=args.max_waiting,
        max_wait_s=args.max_wait_s,
        max_named_tenants=args.max_named_tenants,
        deterministic=args.deterministic,
        engine_process=args.engine_process,
        quantize=args.quantize,
        lora=args.lora,
        prefix=args.prefix,
    )
    replica = serve.deployment(
        name=REPLICA,
        max_ongoing_requests=config.max_ongoing_requests,
        request_router_config=RequestRouterConfig.model_validate(
            {
                "request_router_class": "cluster.router.conversation_router.ConversationRouter",
                "request_router_kwargs": {"soft_capacity": args.max_num_seqs},
                "request_routing_stats_period_s": 1,
                "request_routing_stats_timeout_s": 5,
            }
        ),
        ray_actor_options={"num_cpus": SOME_CPU, "num_gpus": 1 if args.device == "cuda" else 0},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=args.longest_turn_s + END_S,
        graceful_shutdown_wait_loop_s=0.2,
    )(replica_class).bind(config)
    gateway = _deployment(args, GATEWAY, max_ongoing_requests=10_000)(serve.ingress()(Gateway))
    dispatcher = _deployment(args, DISPATCHER)(Dispatcher)
    process = ProcessConfig(
        model_path=args.model_path,
        model_name=args.model_name,
        redis_url=args.redis_url,
        history_ttl_s=args.history_ttl_s,
        longest_turn_s=args.longest_turn_s,
        drain_grace_s=args.drain_grace_s,
        max_conversation_items=args.max_conversation_items,
        max_queued=args.max_queued,
        quantize=args.quantize,
        lora=args.lora,
        prefix=args.prefix,
    )
    settings = DispatcherSettings(slots=args.dispatcher_slots)
    application: Application = gateway.bind(process, replica, dispatcher.bind(process, replica, settings))
    return application


def _deployment(args: AppArgs, name: str, **options: Any) -> Callable[[Any], Any]:
    """A deployment of a process that runs turns."""
    return serve.deployment(
        name=name,
        ray_actor_options={"num_cpus": SOME_CPU},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=args.longest_turn_s + END_S,
        graceful_shutdown_wait_loop_s=0.2,
        **options,
    )
