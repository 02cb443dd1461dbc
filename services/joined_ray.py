"""A Ray cluster that an operator runs on several machines: joined by a driver on one of them, and left running.

The driver brings nothing but the application. What its processes need in their environment has to be there when
``ray start`` runs, on every node: the controller and the proxies of Serve have theirs from the node.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import ConfigurationError
from services.args import AppArgs
from services.deploying import APP_NAME, Say
from services.interrupts import Interrupts
from services.nodes import NodeReport, answers, digests, inspect_node, require
from services.ray_environment import shared_variables
from services.settings import ClusterSettings

CHECK_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0


@contextmanager
def joined_ray(settings: ClusterSettings, args: AppArgs, say: Say, interrupts: Interrupts) -> Iterator[None]:
    """Connect, check every node, and remove the application at the end.

    Raises:
        ConfigurationError: there is no such cluster, this machine is not part of it, it serves the application already,
            or a node lacks what it needs.
    """
    try:
        with interrupts.held():
            connect(settings.address)
        _check_device(settings, args)
        check_nodes(args)
        _check_is_free(settings.address)
        try:
            yield
        finally:
            remove_application(say)
    finally:
        ray.shutdown()


def connect(address: str) -> None:
    """Join the cluster as a driver.

    Raises:
        ConfigurationError: nobody answers there, or this machine is no node of it.
    """
    if not answers(address):
        raise ConfigurationError(f"--address {address}: no Ray cluster answers there.")
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, namespace=APP_NAME)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigurationError(
            f"--address {address} cannot be joined: run `ray start` on this machine too, with the environment that "
            f"`chatglm-cluster env` prints ({str(error).splitlines()[0]})."
        ) from error


def check_nodes(args: AppArgs) -> None:
    """Ask every node for what it needs.

    Raises:
        ConfigurationError: names the first node that lacks something, and what.
    """
    salt = secrets.token_bytes(16)
    expected = digests(shared_variables(), salt)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in _nodes() if node["Alive"]}
    reports = {
        ip: _report.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            expected, salt, args.model_path
        )
        for node, ip in nodes.items()
    }
    for ip, answer in reports.items():
        require(ip, _answer_of(ip, answer), args.model_path)


_report: Any = ray.remote(num_cpus=0)(inspect_node)


def remove_application(say: Say) -> None:
    """Delete the application, and Serve too when nothing else runs on it; Ray stays."""
    if not _has_serve():
        return
    serve.delete(APP_NAME, _blocking=False)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while APP_NAME in (left := serve.status().applications):
        if time.monotonic() > deadline:
            say("turns that still run will end by themselves; new ones are refused")
            return
        time.sleep(0.1)
    if not left:
        serve.shutdown()  # type: ignore[no-untyped-call] # Serve does not annotate it


def leave(address: str, say: Say) -> None:
    """Remove the application that a driver which was killed has left on a cluster.

    Raises:
        ConfigurationError: the cluster cannot be joined.
    """
    connect(address)
    remove_application(say)
    ray.shutdown()


def proxy_host() -> str:
    """The address of a node with a proxy; this one, if it has one."""
    client = _get_global_client()
    assert client is not None
    hosts = sorted(proxy["node_ip"] for proxy in client.get_serve_details()["proxies"].values())
    here: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call] # Ray does not annotate it
    return here if here in hosts else hosts[0]


def _has_serve() -> bool:
    return _get_global_client(raise_if_no_controller_running=False) is not None


def _check_is_free(address: str) -> None:
    if _has_serve() and APP_NAME in serve.status().applications:
        raise ConfigurationError(f"Ray at {address} serves {APP_NAME} already; `chatglm-cluster down` where it began.")


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call] # Ray does not annotate it
    return nodes


def _answer_of(ip: str, answer: Any) -> NodeReport:
    try:
        report: NodeReport = ray.get(answer, timeout=CHECK_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        raise ConfigurationError(
            f"Node {ip} does not run this version of chatglm-cluster: {str(error).splitlines()[-1]}"
        ) from error
    return report


def _check_device(settings: ClusterSettings, args: AppArgs) -> None:
    gpus = sum(node["Resources"].get("GPU", 0) for node in _nodes() if node["Alive"])
    if settings.device == "auto" and args.device == "cpu" and gpus:
        raise ConfigurationError(
            f"The cluster has {gpus:g} GPUs and this machine has none; say --device cuda or --device cpu."
        )
