"""However a cluster ends, it leaves its state folder and nothing else, and the next one goes on from there.

Ctrl-C is tested where the cluster that most tests share ends, in ``conftest.py``.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.leftovers import Leftovers, leftovers_of
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """One replica, not started yet."""
    process = ClusterProcess(tmp_path_factory.mktemp("ending") / "state", "--replicas", "1")
    yield process
    process.stop()


@pytest.fixture
def leftovers(cluster: ClusterProcess) -> Iterator[Leftovers]:
    """What that one leaves."""
    with leftovers_of(cluster) as found:
        yield found


def down(state_dir: Path) -> str:
    """What ``chatglm-cluster down`` prints."""
    done = run_command("down", state_dir=state_dir)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_killed_cluster_leaves_nothing_after_down_and_keeps_its_conversations(
    cluster: ClusterProcess, leftovers: Leftovers
) -> None:
    """Driver and store killed in mid-answer, `down`, `up`: the conversation is whole and goes on; then SIGTERM."""
    cluster.start()
    client = cluster.client()
    conversation = client.conversations.create().id
    options = {"model": MODEL, "conversation": conversation, "max_output_tokens": 16}
    told = ("My name is Anna.", "Hello!", "What is 2 + 2?")
    said = [client.responses.create(input=text, **options).output_text for text in told]
    time.sleep(1.1)  # the embedded server's append-only file is synced once a second
    endless = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Count for ever."}],
        max_tokens=1900,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(endless))
    leftovers.learn()
    assert cluster.port in leftovers.ports
    (store,) = cluster.named("valkey-server")
    store.kill()
    cluster.kill_driver()
    assert "killed" in down(cluster.state_dir)
    assert leftovers.found() == []
    assert any((cluster.state_dir / "logs" / "ray" / "serve").glob("*.log")), "the logs of the killed run are kept"

    cluster.start()
    client = cluster.client()
    items = client.conversations.items.list(conversation, order="asc", limit=20).data
    texts = [part.text for item in items for part in item.content]
    assert texts == [text for both in zip(told, said, strict=True) for text in both]
    fourth = client.responses.create(input="What is my name?", temperature=0, **options)
    assert "Anna" in fourth.output_text
    assert len(client.conversations.items.list(conversation, limit=20).data) == 8
    leftovers.learn()
    assert cluster.stop(signal.SIGTERM) == []
    assert leftovers.found() == []
    assert cluster.output.rstrip().endswith("stopped"), cluster.output


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("starting Ray", "SIGTERM"),
        pytest.param("starting Ray", "SIGINT", marks=pytest.mark.heavy),
        pytest.param("replicas ready", "down", marks=pytest.mark.heavy),
    ],
)
def test_a_start_that_is_interrupted_ends_in_order(
    cluster: ClusterProcess, leftovers: Leftovers, moment: str, end: str
) -> None:
    """In the middle of Ray's own start, and while replicas load; by a signal, or by `down` from another terminal."""
    cluster.begin()
    wait_until(lambda: moment in cluster.output, timeout_s=60, what=moment)
    if moment == "starting Ray":
        wait_until(lambda: bool(cluster.named("gcs_server")), timeout_s=60, what="Ray's first process")
    leftovers.learn()
    if end == "down":
        assert down(cluster.state_dir).startswith("Stopped")
        assert "Nothing runs" in down(cluster.state_dir)
    else:
        cluster.send(getattr(signal, end))
    cluster.wait()
    assert leftovers.found() == []
    assert cluster.output.rstrip().endswith("stopped"), cluster.output
    assert "Traceback" not in cluster.output
    assert "ready: http" not in cluster.output
