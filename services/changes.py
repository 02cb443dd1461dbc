"""What an operator may change about a running application, as changes of its Serve config.

Serve compares configs: a new number starts or stops replicas and leaves the others alone; a new argument replaces every
replica, a few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from cluster.errors import InvalidRequestError
from services.args import DISPATCHER, GATEWAY, REPLICA

Config = dict[str, Any]  # of one application, as Serve keeps it
Change = Callable[[Config], Config]


def deployed_configs(details: Mapping[str, Any]) -> dict[str, Config]:
    """Configs by application, from Serve's details; all go back, for Serve deletes what a config does not name."""
    applications = details.get("applications") or {}
    configs = {name: application.get("deployed_app_config") for name, application in applications.items()}
    return {name: config for name, config in configs.items() if config}


def scaled(
    config: Config, *, replicas: int | None = None, gateways: int | None = None, dispatchers: int | None = None
) -> Config:
    """With other numbers of processes; None leaves a number.

    Raises:
        InvalidRequestError: those scale by themselves.
    """
    config = deepcopy(config)
    wanted = {
        REPLICA: ("replicas", replicas),
        GATEWAY: ("gateways", gateways),
        DISPATCHER: ("dispatchers", dispatchers),
    }
    for deployment in config["deployments"]:
        what, number = wanted.get(deployment["name"], ("", None))
        if number is None:
            continue
        if deployment.get("autoscaling_config"):
            raise InvalidRequestError(
                f"This cluster's {what} scale by themselves; start it without --max-{what} to set their number.",
                param=what,
            )
        deployment["num_replicas"] = number
    return config


def restarted(config: Config) -> Config:
    """With another generation, so that every replica, gateway and dispatcher is replaced, a few at a time."""
    config = deepcopy(config)
    config["args"]["generation"] = config["args"].get("generation", 0) + 1
    return config
