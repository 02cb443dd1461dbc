"""A Ray cluster that an operator runs on several machines: joined by a driver on one of them, and left running.

The driver brings nothing but the application. What its processes need in their environment has to be there when
``ray start`` runs, on every node: the controller and the proxies of Serve have theirs from the node.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import ConfigurationError
from services.args import AppArgs
from services.deploying import APP_NAME, Say
from services.interrupts import Interrupts
from services.ray_environment import shared_variables
from services.settings import ClusterSettings

CONNECT_TIMEOUT_S = 5.0
CHECK_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says of itself."""

    differing: tuple[str, ...]
    """Variables that are not what the driver has."""
    has_model: bool


@contextmanager
def joined_ray(settings: ClusterSettings, args: AppArgs, say: Say, interrupts: Interrupts) -> Iterator[None]:
    """Connect, check every node, and remove the application at the end.

    Raises:
        ConfigurationError: there is no such cluster, this machine is not part of it, or a node lacks what it needs.
    """
    try:
        with interrupts.held():
            connect(settings.address)
        _check_device(settings, args)
        check_nodes(args)
        yield
    finally:
        if ray.is_initialized():
            remove_application(say)
            ray.shutdown()


def connect(address: str) -> None:
    """Join the cluster as a driver.

    Raises:
        ConfigurationError: nobody answers there, or this machine is no node of it.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigurationError(f"--address {address} does not answer: {error.strerror or error}.") from error
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, namespace=APP_NAME)
    except (ConnectionError, RuntimeError, ValueError) as error:
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
    answers = {
        ip: _report.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            expected, salt, args.model_path
        )
        for node, ip in nodes.items()
    }
    for ip, answer in answers.items():
        _check(ip, _answer_of(ip, answer), args)


def digests(variables: Mapping[str, str], salt: bytes) -> dict[str, bytes]:
    """Keyed digests by name: values are compared without being sent."""
    return {name: hmac.digest(salt, value.encode(), hashlib.sha256) for name, value in variables.items()}


def inspect_node(expected: Mapping[str, bytes], salt: bytes, model_path: str) -> NodeReport:
    """Compare this process's environment with what the driver has, and look for the model."""
    here = digests({name: os.environ.get(name, "") for name in expected}, salt)
    differing = [name for name, digest in expected.items() if not hmac.compare_digest(digest, here[name])]
    return NodeReport(tuple(differing), Path(model_path, "config.json").is_file())


_report: Any = ray.remote(num_cpus=0)(inspect_node)


def remove_application(say: Say) -> None:
    """Delete the application, and Serve too when nothing else runs on it; Ray stays."""
    if _get_global_client(raise_if_no_controller_running=False) is None:
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


def _check(ip: str, report: NodeReport, args: AppArgs) -> None:
    if report.differing:
        raise ConfigurationError(
            f"Node {ip} has another {', '.join(report.differing)} than this shell; on every machine, set the "
            "environment that one `chatglm-cluster env` has printed, then run `ray start`."
        )
    if not report.has_model:
        raise ConfigurationError(f"Node {ip} has no checkpoint at {args.model_path}; every node needs it there.")


def _check_device(settings: ClusterSettings, args: AppArgs) -> None:
    gpus = sum(node["Resources"].get("GPU", 0) for node in _nodes() if node["Alive"])
    if settings.device == "auto" and args.device == "cpu" and gpus:
        raise ConfigurationError(
            f"The cluster has {gpus:g} GPUs and this machine has none; say --device cuda or --device cpu."
        )
