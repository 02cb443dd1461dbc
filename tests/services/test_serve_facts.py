"""What Ray Serve's controller says, as values."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from services.serve_facts import DeploymentFacts, ServedProcess, ServeFacts, facts_of, sentence_of

FAILED = """A replica failed to start with exception. Retrying. Error:
ray::ServeReplica:chatglm:Replica.initialize_and_get_metadata() (pid=1, ip=10.0.0.1)
  File "/app/cluster/model/files.py", line 40, in find_shards
    raise CheckpointError(f"{folder}: no weights.")
cluster.errors.CheckpointError: /model: no weights.
"""


class State(str, Enum):  # noqa: UP042 - as Serve writes its own, which format differently from StrEnum
    STARTING = "STARTING"


def details(**replica: Any) -> dict[str, Any]:
    """As the controller gives them, without what is not read."""
    deployment = {"status": "UNHEALTHY", "message": FAILED, "target_num_replicas": 2, "replicas": [replica]}
    app = {"status": "UNHEALTHY", "message": "", "deployments": {"Replica": deployment}}
    return {"applications": {"chatglm": app}, "controller_info": {}}


def test_states_places_and_the_reason_are_read() -> None:
    """A replica that is starting may not have a place yet."""
    facts = facts_of(details(replica_id="abc", state=State.STARTING, start_time_s=0.0), "chatglm")
    (process,) = facts.replicas.processes
    assert (process.incarnation, process.state, process.node, process.pid) == ("abc", "STARTING", "", None)
    assert (facts.state, facts.replicas.state, facts.replicas.target) == ("UNHEALTHY", "UNHEALTHY", 2)
    assert (facts.replicas.message, facts.replicas.is_failing) == ("/model: no weights.", True)
    assert facts.gateways.processes == ()


def test_running_replicas_are_counted() -> None:
    """Only those that take turns."""
    facts = facts_of(details(replica_id="abc", state="RUNNING", node_ip="10.0.0.1", pid=7), "chatglm")
    assert facts.replicas.running == 1
    assert facts_of(details(replica_id="abc", state="STOPPING"), "chatglm").replicas.running == 0


def test_what_serves_in_part_is_told_from_what_is_slow() -> None:
    """Only a failure to start is not waited for, and only when turns of all kinds can be taken."""
    serving = DeploymentFacts("HEALTHY", target=1, processes=(ServedProcess("g", "RUNNING"),))
    replicas = (ServedProcess("a", "RUNNING"), ServedProcess("b", "STARTING"))
    failing = DeploymentFacts("UPDATING", "no weights.", 2, replicas, is_failing=True)
    slow = DeploymentFacts("UPDATING", "it takes long.", 2, replicas)
    assert ServeFacts("DEPLOYING", "", failing, serving, serving).serves_in_part
    assert not ServeFacts("DEPLOYING", "", failing, DeploymentFacts(), serving).serves_in_part
    assert not ServeFacts("DEPLOYING", "", failing, serving, DeploymentFacts()).serves_in_part
    assert not ServeFacts("DEPLOYING", "", slow, serving, serving).serves_in_part
    assert ServeFacts("DEPLOYING", "", failing, serving).trouble == "no weights."
    assert ServeFacts("DEPLOYING", "", slow, serving).progress == "replicas ready: 1 of 2; gateways ready: 1 of 1"


def test_another_application_is_none_of_ours() -> None:
    """Before the first deploy the controller knows nothing."""
    assert facts_of({"applications": {}}, "chatglm") == ServeFacts()


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("", ""),
        ("  \n ", ""),
        ("A replica's health check failed.", "A replica's health check failed."),
        (FAILED, "/model: no weights."),
        ("x\nRuntimeError: CUDA error: bad", "CUDA error: bad"),
        ("Note: this stays.", "Note: this stays."),
    ],
)
def test_of_a_traceback_the_errors_own_words_are_kept(message: str, sentence: str) -> None:
    """The last line, without the error's class."""
    assert sentence_of(message) == sentence
