"""What Ray Serve knows of this cluster, as values. Read from its controller's details; nothing here imports Ray.

Serve has no word for a replica that cannot load: it is STARTING again and again, and the reason is in the deployment's
message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.args import DISPATCHER, GATEWAY, REPLICA

_EXCEPTION = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception): ")


@dataclass(frozen=True, slots=True)
class ServedProcess:
    """One replica of a deployment. ``state`` is Serve's: STARTING, RUNNING, STOPPING …; "" and None: not known yet."""

    incarnation: str
    state: str
    node: str = ""
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class DeploymentFacts:
    """One deployment. ``state`` is Serve's: HEALTHY, UPDATING, UNHEALTHY, DEPLOY_FAILED or the like.

    ``is_failing``: ``message`` is the reason why a process could not start.
    """

    state: str = ""
    message: str = ""
    target: int = 0
    processes: tuple[ServedProcess, ...] = ()
    is_failing: bool = False

    @property
    def running(self) -> int:
        """How many take requests."""
        return sum(process.state == "RUNNING" for process in self.processes)

    @property
    def is_complete(self) -> bool:
        """Whether all that shall run do, and nothing else is starting or stopping."""
        return self.running == len(self.processes) == self.target

    @property
    def has_given_up(self) -> bool:
        """Whether Serve starts no more processes until the next deploy: a first start or a rolling update has failed.

        The same state while processes come and go means the opposite: what has served before is tried for ever.
        """
        return self.state == "DEPLOY_FAILED" and self.running == len(self.processes)


@dataclass(frozen=True, slots=True)
class ServeFacts:
    """The application. ``state`` is Serve's: DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED or the like."""

    state: str = "NOT_STARTED"
    message: str = ""
    replicas: DeploymentFacts = DeploymentFacts()
    gateways: DeploymentFacts = DeploymentFacts()
    dispatchers: DeploymentFacts = DeploymentFacts()

    @property
    def parts(self) -> tuple[tuple[str, DeploymentFacts], ...]:
        """The deployments, by the name that operators know."""
        return (("replicas", self.replicas), ("gateways", self.gateways), ("dispatchers", self.dispatchers))

    @property
    def names_deployments(self) -> bool:
        """Whether Serve knows at least one of them."""
        return any(part.state for _, part in self.parts)

    @property
    def trouble(self) -> str:
        """What Serve says is wrong, in one sentence; "" when it says nothing."""
        return next((part.message for _, part in self.parts if part.message), self.message)

    @property
    def serves_in_part(self) -> bool:
        """Whether all kinds of turns can be taken although a process fails to start."""
        is_failing = any(part.is_failing for _, part in self.parts)
        return is_failing and all(part.running for _, part in self.parts)

    @property
    def progress(self) -> str:
        """How many serve of how many there shall be."""
        parts = [(name, part) for name, part in self.parts if part.processes]
        return "; ".join(f"{name} ready: {part.running} of {part.target}" for name, part in parts)


def facts_of(details: Mapping[str, Any], app_name: str) -> ServeFacts:
    """The application's facts, from what the controller calls instance details."""
    app = details["applications"].get(app_name)
    if app is None:
        return ServeFacts()
    deployments = app["deployments"]
    return ServeFacts(
        state=_name(app["status"]),
        message=sentence_of(app["message"]),
        replicas=_deployment(deployments.get(REPLICA)),
        gateways=_deployment(deployments.get(GATEWAY)),
        dispatchers=_deployment(deployments.get(DISPATCHER)),
    )


def sentence_of(message: str) -> str:
    """The last line of what Serve says: of a traceback the error's own words."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return _EXCEPTION.sub("", lines[-1]) if lines else ""


def _deployment(details: Mapping[str, Any] | None) -> DeploymentFacts:
    if details is None:
        return DeploymentFacts()
    return DeploymentFacts(
        state=_name(details["status"]),
        message=sentence_of(details["message"]),
        target=int(details["target_num_replicas"]),
        processes=tuple(_process(replica) for replica in details["replicas"]),
        is_failing="failed to start" in details["message"],
    )


def _process(details: Mapping[str, Any]) -> ServedProcess:
    return ServedProcess(
        incarnation=details["replica_id"],
        state=_name(details["state"]),
        node=details.get("node_ip") or "",
        pid=details.get("pid"),
    )


def _name(state: Any) -> str:
    """Serve gives its own enumerations of strings, or the strings."""
    return str(getattr(state, "value", state))
