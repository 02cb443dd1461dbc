"""Background turns on a real cluster: carried out by dispatchers that are killed, scaled and replaced meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.heavy, pytest.mark.timeout(300)]

TIMEOUT_S = 90
TOKENS = 256
OPEN = {"queued", "in_progress"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """One replica that answers exactly alike, one gateway, one dispatcher."""
    folder = tmp_path_factory.mktemp("background") / "state"
    running = ClusterProcess(folder, "--replicas", "1", "--threads", "1", "--dispatcher-slots", "8")
    running.start()
    yield running
    assert running.stop() == [], "processes outlived the cluster"


def ask(client: OpenAI, number: int) -> str:
    """A long question that nobody waits for; its id."""
    extra = {"ignore_eos": True, "seed": number}
    made = client.responses.create(
        model=MODEL, input=f"Tell me story {number}.", background=True, max_output_tokens=TOKENS, extra_body=extra
    )
    assert made.status == "queued"
    return made.id


def ended(client: OpenAI, names: list[str]) -> list[Any]:
    """The responses, once none is open."""
    wait_until(
        lambda: all(client.responses.retrieve(name).status not in OPEN for name in names),
        timeout_s=TIMEOUT_S,
        what="all background turns end",
    )
    return [client.responses.retrieve(name) for name in names]


def texts(responses: list[Any]) -> list[str]:
    return [response.output_text for response in responses]


def dispatchers(cluster: ClusterProcess) -> list[dict[str, Any]]:
    """Those that work."""
    return [each for each in cluster.status()["dispatchers"] if each["state"] == "RUNNING"]


def works(cluster: ClusterProcess) -> bool:
    return any(each["used_slots"] for each in dispatchers(cluster))


def test_a_cluster_that_is_up_has_a_dispatcher(cluster: ClusterProcess) -> None:
    """``up`` says so only then; status and metrics tell of it and of its queue."""
    status = cluster.status()
    assert [each["state"] for each in status["dispatchers"]] == ["RUNNING"]
    wait_until(lambda: cluster.status()["queue"] is not None, what="the dispatcher tells of its queue")
    assert "chatglm_queue_jobs{state=waiting}" in cluster.metrics()


def test_a_killed_dispatchers_turns_end_with_the_words_they_would_have_had(cluster: ClusterProcess) -> None:
    """Its lease runs out, another process goes on; the text is the one of an undisturbed run."""
    client = cluster.client()
    whole = texts(ended(client, [ask(client, number) for number in range(4)]))
    names = [ask(client, number) for number in range(4)]
    wait_until(lambda: works(cluster), what="a dispatcher has work")
    os.kill(dispatchers(cluster)[0]["pid"], signal.SIGKILL)
    responses = ended(client, names)
    assert {response.status for response in responses} == {"incomplete"}
    assert texts(responses) == whole


def test_dispatchers_come_and_go_under_load_and_nothing_is_lost(cluster: ClusterProcess) -> None:
    """From one to two and back, while their slots are full."""
    client = cluster.client()
    names = [ask(client, number) for number in range(24)]
    for number in (2, 1):
        changed = run_command("scale", "--dispatchers", str(number), state_dir=cluster.state_dir)
        assert changed.returncode == 0, changed.stderr
        wait_until(
            lambda wanted=number: len(cluster.status()["dispatchers"]) == len(dispatchers(cluster)) == wanted,
            timeout_s=TIMEOUT_S,
            what="the dispatchers are as many as were asked for",
        )
    assert {response.status for response in ended(client, names)} == {"incomplete"}
    queue = cluster.status()["queue"]
    assert queue["dead"] == 0
    assert httpx.get(f"{cluster.url}/readyz").is_success
