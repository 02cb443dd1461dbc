"""The operator asks what the cluster does, and why a replica does not serve."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.demo import CHECKPOINT
from services.gateway.schemas.status import ClusterStatus
from services.state import StateFolder
from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

REPORTED_WITHIN_S = 30.0
WEIGHTS = "model.safetensors"


def status_of(cluster: ClusterProcess) -> ClusterStatus:
    """What the operator is told, without the command's own start."""
    return ClusterStatus.model_validate(cluster.status())


def say(cluster: ClusterProcess, text: str, conversation: str) -> str:
    """One turn of a conversation; the rank that served it."""
    raw = cluster.client().responses.with_raw_response.create(
        model=MODEL, conversation=conversation, input=text, max_output_tokens=24
    )
    return raw.headers["x-replica-rank"]


def test_the_status_shows_who_serves_and_how_well(cluster: ClusterProcess) -> None:
    """Both ranks with load and pages; a second turn is a kept pin and a cache hit; all of it as JSON and as a table."""
    before = status_of(cluster).turns
    conversation = cluster.client().conversations.create().id
    ranks = {say(cluster, text, conversation) for text in ("Hello, who are you?", "And what do you like?")}
    assert len(ranks) == 1

    def is_counted() -> bool:
        turns = status_of(cluster).turns
        return turns.pinned > before.pinned and turns.cached_tokens > before.cached_tokens

    wait_until(is_counted, timeout_s=10, what="the kept pin and the cached tokens are counted")
    done = run_command("status", "--json", state_dir=cluster.state_dir)
    assert (done.returncode, done.stderr) == (0, "")
    status = ClusterStatus.model_validate_json(done.stdout)
    assert (status.state, status.serving, status.target_replicas, status.target_gateways) == ("RUNNING", 2, 2, 2)
    assert [(replica.rank, replica.state, replica.reason) for replica in status.replicas] == [
        (0, "RUNNING", None), (1, "RUNNING", None),
    ]  # fmt: skip
    assert [gateway.state for gateway in status.gateways] == ["RUNNING", "RUNNING"]
    (server,) = [replica for replica in status.replicas if str(replica.rank) in ranks]
    assert server.load is not None
    assert server.load.pages.cached > 0
    assert 0 < (server.load.cache_share or 0) < 1
    assert (status.cannot_load, status.notes) == ([], [])
    table = run_command("status", state_dir=cluster.state_dir).stdout
    assert "2 of 2 replicas serve" in table
    assert all(replica.incarnation in table for replica in status.replicas)


def test_every_gateway_tells_the_same_to_the_operator_and_nothing_to_others(cluster: ClusterProcess) -> None:
    """Whichever gateway answers, the replicas are the same; a tenant's key opens none of them."""
    seen = {tuple(replica.incarnation for replica in status_of(cluster).replicas) for _ in range(6)}
    assert len(seen) == 1
    for headers in ({}, {"Authorization": f"Bearer {cluster.key}"}):
        answers = [httpx.get(f"{cluster.url}/status", headers={**headers, "Connection": "close"}) for _ in range(4)]
        assert {answer.status_code for answer in answers} == {401}


def test_without_a_cluster_the_command_ends_with_one_sentence(tmp_path: Path) -> None:
    """Exit status 2, and how to start one."""
    done = run_command("status", state_dir=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "chatglm-cluster up" in done.stderr


@pytest.fixture
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo model that may be broken."""
    return shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("model") / "checkpoint")


@pytest.fixture
def own_cluster(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """Two replicas on the copy."""
    options = ("--model", str(checkpoint), "--model-name", MODEL, "--replicas", "2")
    running = ClusterProcess(tmp_path_factory.mktemp("own") / "state", *options)
    running.start()
    yield running
    assert running.stop() == [], "processes outlived the cluster"


@pytest.mark.heavy
def test_a_replica_that_cannot_load_is_reported_and_comes_back(own_cluster: ClusterProcess, checkpoint: Path) -> None:
    """After kill -9 without weights: the reason in status and log within 30 s, chat goes on, and it mends by itself."""
    wait_until(lambda: all(r.load for r in status_of(own_cluster).replicas), what="both replicas report")
    weights, hidden = checkpoint / WEIGHTS, checkpoint.parent / WEIGHTS
    weights.rename(hidden)
    victim = status_of(own_cluster).replicas[1]
    (process,) = [p for p in own_cluster.named("ServeReplica:chatglm:Replica") if p.pid == victim.pid]
    process.kill()
    killed_at = time.monotonic()

    def is_reported() -> bool:
        chat(own_cluster)
        return bool(status_of(own_cluster).cannot_load)

    wait_until(is_reported, timeout_s=REPORTED_WITHIN_S, what="the reason is in the status")
    print(f"\nreported {time.monotonic() - killed_at:.1f} s after kill -9")  # noqa: T201 - a measured figure
    status = status_of(own_cluster)
    (failure,) = status.cannot_load
    assert failure.rank == victim.rank
    assert str(checkpoint) in failure.reason
    assert "Traceback" not in failure.reason
    assert status.serving == 1
    assert failure.reason in run_command("status", state_dir=own_cluster.state_dir).stdout
    wait_until(lambda: failure.reason in logged(own_cluster), timeout_s=5, what="the reason is in the log")

    hidden.rename(weights)
    mended_at = time.monotonic()
    wait_until(lambda: status_of(own_cluster).serving == 2, timeout_s=60, what="the replica serves again")
    print(f"served again {time.monotonic() - mended_at:.1f} s after the weights came back")  # noqa: T201 - a measured figure
    wait_until(lambda: not troubles(own_cluster), timeout_s=10, what="nothing is left to report")
    chat(own_cluster)


def chat(cluster: ClusterProcess) -> None:
    """A client is served."""
    answer = cluster.client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=4
    )
    assert answer.choices


def logged(cluster: ClusterProcess) -> str:
    """All lines of processes that could not load."""
    files = StateFolder(cluster.state_dir).ray_logs.resolve().glob("worker-*.err")
    lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
    return "\n".join(line for line in lines if "replica.cannot_load" in line)


def troubles(cluster: ClusterProcess) -> list[str]:
    """Everything the status complains of."""
    status = status_of(cluster)
    return [*(f.reason for f in status.cannot_load), *(r.reason for r in status.replicas if r.reason), *status.notes]
