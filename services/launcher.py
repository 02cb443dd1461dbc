"""Starts a whole cluster on this machine and takes it down again: state folder, Valkey, Ray, Serve, first key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import ray
from ray import serve
from ray.serve.context import _get_global_client  # the only way to a declarative deploy without the dashboard
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ServeDeploySchema

from cluster.channel.connection import SECRET_VARIABLE
from cluster.errors import ConfigurationError
from services.args import GATEWAY, REPLICA, AppArgs
from services.conversations.redis_link import RedisLink
from services.embedded import EmbeddedValkey
from services.operator_token import operator_token
from services.serve_status import running_of
from services.settings import ClusterSettings
from services.state import Endpoint, StateFolder
from services.tenants.keys import split_key
from services.tenants.redis_keys import RedisKeyStore

APP_NAME = "chatglm"
DEFAULT_TENANT = "default"
START_TIMEOUT_S = 1800.0
STOP_TIMEOUT_S = 15.0
OBJECT_STORE_BYTES = 78_643_200  # Ray's smallest; tokens never pass through it

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A cluster that answers."""

    url: str
    key: str
    model: str


@contextmanager
def running_cluster(settings: ClusterSettings, args: AppArgs, state: StateFolder, say: Say) -> Iterator[Running]:
    """Start everything, yield once it answers, and leave nothing running.

    Args:
        settings: what the operator asked for.
        args: the application's arguments; an empty ``redis_url`` asks for an embedded server.
        state: the folder, already acquired.
        say: told what happens, one short line at a time.

    Raises:
        ConfigurationError: a part did not start; says which and why.
    """
    with ExitStack() as stack:
        if not args.redis_url:
            say("starting Valkey")
            valkey = EmbeddedValkey(state.valkey)
            valkey.start()
            stack.callback(valkey.stop)
            args = args.model_copy(update={"redis_url": valkey.url})
        key = asyncio.run(_first_key(args.redis_url, state))
        say("starting Ray")
        with _own_signal_handlers():
            _start_ray(settings)
        stack.callback(_stop_ray, state)
        url = f"http://127.0.0.1:{settings.port}"
        _deploy(serve_config(settings, args), say)
        _wait_until_answers(url)
        token = operator_token(os.environ[SECRET_VARIABLE].encode())
        state.write_endpoint(Endpoint(url, args.redis_url, args.model_name, token))
        yield Running(url=url, key=key, model=args.model_name)


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


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray puts a handler for SIGTERM in place of ours, which prints a stack and skips the orderly end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _start_ray(settings: ClusterSettings) -> None:
    logging.getLogger("ray").setLevel(logging.WARNING)
    needed = settings.replicas + settings.gateways + 4
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, needed),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        namespace=APP_NAME,
    )


def serve_config(settings: ClusterSettings, args: AppArgs) -> ServeDeploySchema:
    """The declarative Serve config; changing a number in it scales, it never replaces replicas."""
    return ServeDeploySchema.model_validate(
        {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "0.0.0.0", "port": settings.port},  # noqa: S104 - HAProxy binds so in any case
            "applications": [
                {
                    "name": APP_NAME,
                    "route_prefix": "/",
                    "import_path": "services.app:build",
                    "args": args.model_dump(),
                    "deployments": [
                        {"name": REPLICA, "num_replicas": settings.replicas},
                        {"name": GATEWAY, "num_replicas": settings.gateways},
                    ],
                }
            ],
        }
    )


def _deploy(config: ServeDeploySchema, say: Say) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # progress is told in our own words
    serve.start(proxy_location=config.proxy_location, http_options=config.http_options.model_dump())
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(config)
    deadline = time.monotonic() + START_TIMEOUT_S
    said = ""
    while time.monotonic() < deadline:
        status = serve.status().applications[APP_NAME]
        if status.status == ApplicationStatus.RUNNING:
            return
        if status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            raise ConfigurationError(f"The cluster did not start: {_reason(status)}")
        if (progress := _progress(status)) != said:
            said = progress
            say(progress)
        time.sleep(0.2)
    raise ConfigurationError("The cluster did not start in time; see the logs of Ray Serve.")


def _progress(status: ApplicationStatusOverview) -> str:
    states = {name: deployment.replica_states for name, deployment in status.deployments.items()}
    parts = [f"{name.lower()}s ready: {running_of(s)} of {sum(s.values())}" for name, s in states.items() if s]
    return "; ".join(parts)


def _reason(status: ApplicationStatusOverview) -> str:
    """The last line of what Serve says: the exception, without its traceback."""
    messages = [deployment.message for deployment in status.deployments.values() if deployment.message]
    return (messages or [status.message])[0].strip().splitlines()[-1]


def _wait_until_answers(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=2).is_success:
                return
        time.sleep(0.1)
    raise ConfigurationError(f"The cluster started, but {url} does not answer; is the port free?")


def _stop_ray(state: StateFolder) -> None:
    """Let running turns end for a bounded time, then stop what is left.

    Ray reports every process that it ends; that goes to a log, not to the person who asked for it.
    """
    state.logs.mkdir(parents=True, exist_ok=True)
    with (state.logs / "stop.log").open("w") as log, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        stopping = threading.Thread(target=serve.shutdown, daemon=True)
        stopping.start()
        stopping.join(STOP_TIMEOUT_S)
        ray.shutdown()
