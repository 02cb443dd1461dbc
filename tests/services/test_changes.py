"""What an operator may change, and what stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import InvalidRequestError
from services.changes import restarted, scaled


def config(dispatcher: dict[str, Any] | None = None, **replica: Any) -> dict[str, Any]:
    """A small application."""
    deployments = [{"name": "Replica", **(replica or {"num_replicas": 2})}, {"name": "Gateway", "num_replicas": 1}]
    deployments.append({"name": "Dispatcher", **(dispatcher or {"num_replicas": 1})})
    return {"name": "chatglm", "args": {"device": "cpu"}, "deployments": deployments}


def test_a_number_changes_nothing_but_itself() -> None:
    """Serve replaces every replica when an argument changes, so a scale must not touch one."""
    before = config()
    after = scaled(before, gateways=3)
    assert after["deployments"][1]["num_replicas"] == 3
    after["deployments"][1]["num_replicas"] = 1
    assert after == before == config()


def test_replicas_that_scale_by_themselves_are_not_set() -> None:
    """The number would be overruled at once; the gateways' may still be set."""
    with pytest.raises(InvalidRequestError, match="scale by themselves"):
        scaled(config(autoscaling_config={"min_replicas": 1}), replicas=3)
    assert scaled(config(autoscaling_config={"min_replicas": 1}), gateways=3)["deployments"][1]["num_replicas"] == 3


def test_dispatchers_are_set_alike() -> None:
    """Unless they follow the queue."""
    assert scaled(config(), dispatchers=3)["deployments"][2]["num_replicas"] == 3
    with pytest.raises(InvalidRequestError, match="--max-dispatchers") as caught:
        scaled(config(dispatcher={"autoscaling_config": {"min_replicas": 1}}), dispatchers=3)
    assert caught.value.param == "dispatchers"


def test_each_restart_is_another_generation() -> None:
    """Serve sees a new argument each time."""
    assert [restarted(config())["args"]["generation"], restarted(restarted(config()))["args"]["generation"]] == [1, 2]
