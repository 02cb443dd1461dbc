"""One cluster over several Ray nodes: joined, spread over them, and left running when the application goes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI

from services.ports import unused_port
from tests.support.cluster import MODEL, ClusterProcess
from tests.support.ray_nodes import RayNodes, running_nodes
from tests.support.valkey import running_valkey
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]

GATEWAY = "ServeReplica:chatglm:Gateway"
REPLICA = "ServeReplica:chatglm:Replica"
HELLO: Any = [{"role": "user", "content": "Hello!"}]
LONG: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "A long story, please."}],
    "temperature": 0,
    "max_tokens": 300,
}
STREAMS = 8


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A store that every node reaches."""
    port = unused_port()
    with running_valkey(port=port):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    """A head and one worker."""
    with running_nodes() as running:
        running.add_worker()
        yield running


def joined(folder: Path, nodes: RayNodes, redis_url: str, *options: str) -> ClusterProcess:
    """A cluster on those nodes, not started yet."""
    cluster = ClusterProcess(folder / "state", "--address", nodes.address, "--redis-url", redis_url, *options)
    cluster.environment = nodes.environment
    return cluster


def refusal(nodes: RayNodes, cluster: ClusterProcess, **changes: str) -> str:
    """What `up` says to an environment with changes; "" takes a variable away."""
    cluster.environment = {name: value for name, value in (nodes.environment | changes).items() if value}
    cluster.begin()
    cluster.wait()
    assert "Traceback" not in cluster.output
    return cluster.output


def landed(nodes: RayNodes, part: str) -> list[int]:
    """How many processes of a deployment are on each node, the head first."""
    return [len(node.running(part)) for node in (nodes.head, *nodes.workers)]


def ranks(client: OpenAI, keys: int) -> set[str]:
    """The ranks that serve ``keys`` different conversations."""
    replies = [
        client.chat.completions.with_raw_response.create(
            model=MODEL, messages=HELLO, max_tokens=4, extra_body={"prompt_cache_key": str(key)}
        )
        for key in range(keys)
    ]
    assert all(reply.parse().choices[0].message.content for reply in replies)
    return {reply.headers["x-replica-rank"] for reply in replies}


def answers(client: OpenAI) -> bool:
    """Whether a few requests in a row are all answered."""
    try:
        return bool(ranks(client, 4))
    except APIError:
        return False


class Stream:
    """One long answer, read in a thread of its own."""

    def __init__(self, client: OpenAI, key: int) -> None:
        self._client, self._key = client, str(key)
        self.has_begun = threading.Event()
        self.text = ""

    def read(self) -> str:
        """All of it, or what came before the connection broke."""
        extra = {"ignore_eos": True, "prompt_cache_key": self._key}
        try:
            for chunk in self._client.chat.completions.create(**LONG, stream=True, extra_body=extra):
                self.text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                self.has_begun.set()
        except (APIError, httpx.HTTPError):
            pass
        return self.text


def texts_while(client: OpenAI, action: Callable[[], None]) -> list[str]:
    """What ``STREAMS`` streams have said that were running when ``action`` happened."""
    streams = [Stream(client, key) for key in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as pool:
        reading = [pool.submit(stream.read) for stream in streams]
        for stream in streams:
            assert stream.has_begun.wait(60)
        action()
        return [read.result() for read in reading]


def test_a_cluster_on_two_nodes_outlives_one_of_them(tmp_path: Path, nodes: RayNodes, redis_url: str) -> None:
    """Joined only with the right environment; turns cross nodes; a node's death costs a pause; the end leaves Ray."""
    cluster = joined(tmp_path, nodes, redis_url, "--replicas", "2", "--gateways", "2")
    assert "chatglm-cluster env" in refusal(nodes, cluster, CHATGLM_CHANNEL_SECRET="")
    assert "another CHATGLM_CHANNEL_SECRET" in refusal(nodes, cluster, CHATGLM_CHANNEL_SECRET="not theirs")
    cluster.environment = nodes.environment
    cluster.start()
    assert (landed(nodes, GATEWAY), landed(nodes, REPLICA)) == ([1, 1], [1, 1])
    client = cluster.client()
    assert ranks(client, 16) == {"0", "1"}

    conversation = client.conversations.create().id
    said = client.responses.create(model=MODEL, conversation=conversation, input="My name is Anna.")
    whole = client.chat.completions.create(**LONG, extra_body={"ignore_eos": True}).choices[0].message.content or ""
    texts = texts_while(client, nodes.workers[0].kill)
    assert whole in texts, "streams through the gateway that is left go on"
    assert all(whole.startswith(text) for text in texts), "what was cut was right as far as it went"
    wait_until(lambda: landed(nodes, REPLICA) == [2, 0], timeout_s=90, what="a replica in place of the lost one")
    wait_until(lambda: answers(client), timeout_s=30, what="every gateway answers")
    items = client.conversations.items.list(conversation, order="asc").data
    assert [item.content[0].text for item in items] == ["My name is Anna.", said.output_text]
    again = client.responses.create(model=MODEL, conversation=conversation, input="What is my name?", temperature=0)
    assert "Anna" in again.output_text

    cluster.stop()
    assert cluster.output.rstrip().endswith("stopped"), cluster.output
    assert (landed(nodes, GATEWAY), landed(nodes, REPLICA)) == ([0, 0], [0, 0])
    assert nodes.head.running("gcs_server"), "Ray is the operator's"
