"""Starts a whole cluster and takes it down again: Valkey, first key, Ray here or elsewhere, the application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.serve.schema import ServeDeploySchema

from cluster.channel.connection import SECRET_VARIABLE
from services.args import DISPATCHER, GATEWAY, REPLICA, AppArgs
from services.conversations.redis_link import RedisLink
from services.deploying import APP_NAME, Say, deploy, wait_until_answers
from services.embedded import EmbeddedValkey
from services.interrupts import Interrupts
from services.joined_ray import joined_ray, proxy_host
from services.operator_token import operator_token
from services.own_ray import own_ray
from services.scaling import dispatcher_numbers, replica_numbers
from services.settings import ClusterSettings
from services.state import Endpoint, Run, StateFolder
from services.tenants.keys import split_key
from services.tenants.redis_keys import RedisKeyStore

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Running:
    """A cluster that answers."""

    url: str
    key: str
    model: str


@dataclass(frozen=True, slots=True)
class Launch:
    """What one start of a cluster works with."""

    settings: ClusterSettings
    state: StateFolder
    run: Run
    interrupts: Interrupts
    say: Say
    """Told what happens, one short line at a time."""


@contextmanager
def running_cluster(launch: Launch, args: AppArgs) -> Iterator[Running]:
    """Start everything, yield once it answers, and stop it.

    Args:
        launch: what the operator asked for, and where this run keeps things.
        args: the application's arguments; an empty ``redis_url`` asks for an embedded server.

    Raises:
        ConfigurationError: a part did not start; says which and why.
    """
    settings, state, say = launch.settings, launch.state, launch.say
    with ExitStack() as stack:
        if not args.redis_url:
            say("starting Valkey")
            args = args.model_copy(update={"redis_url": _start_valkey(launch, stack)})
        key = asyncio.run(_first_key(args.redis_url, state))
        host = _enter_ray(launch, args, stack)
        deploy(serve_config(settings, args), say)
        url = f"http://{host or proxy_host()}:{settings.port}"
        wait_until_answers(url)
        token = operator_token(os.environ[SECRET_VARIABLE].encode())
        state.write_endpoint(Endpoint(url, args.redis_url, args.model_name, token))
        yield Running(url=url, key=key, model=args.model_name)


def _start_valkey(launch: Launch, stack: ExitStack) -> str:
    socket = Path(launch.run.folder, "valkey.sock")
    valkey = EmbeddedValkey(launch.state.valkey, socket, launch.settings.redis_appendfsync)
    valkey.start()
    stack.callback(valkey.stop)
    return valkey.url


def _enter_ray(launch: Launch, args: AppArgs, stack: ExitStack) -> str:
    """Start or join Ray; returns where its proxy will answer, or "" where Serve chooses that."""
    if launch.settings.address:
        launch.say(f"joining Ray at {launch.settings.address}")
        stack.enter_context(joined_ray(launch.settings, args, launch.say, launch.interrupts))
        return ""
    launch.say("starting Ray")
    stack.enter_context(own_ray(launch.settings, launch.run, launch.state, launch.interrupts))
    return "127.0.0.1"


async def _first_key(redis_url: str, state: StateFolder) -> str:
    """The key of this machine's user: the one of the last run while it is valid, else a new one."""
    link = RedisLink(redis_url)
    try:
        store = RedisKeyStore(link)
        text = state.read_key()
        if not await _admits(store, text):
            _, text = await store.create(DEFAULT_TENANT, "made by up")
            state.write_key(text)
        return text
    finally:
        await link.close()


async def _admits(store: RedisKeyStore, text: str) -> bool:
    parts = split_key(text)
    record = await store.find(parts[0]) if parts else None
    return parts is not None and record is not None and record.admits(parts[1])


def serve_config(settings: ClusterSettings, args: AppArgs) -> ServeDeploySchema:
    """The declarative Serve config; changing a number in it scales, it never replaces replicas."""
    return ServeDeploySchema.model_validate(
        {
            "proxy_location": "EveryNode" if settings.address else "HeadOnly",
            "http_options": {"host": "0.0.0.0", "port": settings.port},  # noqa: S104 - HAProxy binds so in any case
            "applications": [
                {
                    "name": APP_NAME,
                    "route_prefix": "/",
                    "import_path": "services.app:build",
                    "args": args.model_dump(),
                    "deployments": [
                        {"name": REPLICA, **replica_numbers(settings)},
                        {"name": GATEWAY, "num_replicas": settings.gateways},
                        {"name": DISPATCHER, **dispatcher_numbers(settings)},
                    ],
                }
            ],
        }
    )
