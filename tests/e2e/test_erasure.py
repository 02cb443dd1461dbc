"""What is deleted is gone from the caches of all replicas, even of one that could not hear it at the time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from openai import OpenAI

from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

REPLICAS = 2


class Told(NamedTuple):
    """One turn of a conversation that nobody else has."""

    conversation: str
    rank: str
    cached_tokens: int


def tell(client: OpenAI, secret: str, conversation: str | None = None) -> Told:
    """A turn whose prompt begins with a secret of more than a page."""
    conversation = conversation or client.conversations.create().id
    raw = client.responses.with_raw_response.create(
        model=MODEL, conversation=conversation, input=f"{secret} {secret} {secret}", max_output_tokens=24, temperature=0
    )
    usage = raw.parse().usage
    assert usage is not None
    return Told(conversation, raw.headers["x-replica-rank"], usage.input_tokens_details.cached_tokens)


def delete(client: OpenAI, conversation: str) -> dict[str, Any]:
    """What the deletion says of the caches."""
    extra = client.conversations.delete(conversation).model_extra
    assert extra is not None
    return dict(extra["erased"])


def tell_anew(client: OpenAI, secret: str, rank: str) -> Told:
    """The same words in another conversation that happens to be served there; those served elsewhere are deleted."""
    for _ in range(40):
        told = tell(client, secret)
        delete(client, told.conversation)
        if told.rank == rank:
            return told
    raise AssertionError(f"rank {rank} serves no new conversation")


@pytest.fixture
def client(cluster: ClusterProcess) -> Iterator[OpenAI]:
    """The official one."""
    with cluster.client() as client:
        yield client


def test_a_deleted_conversation_is_in_no_cache(client: OpenAI) -> None:
    """All its pages are dropped, on whichever replica; the next one to say the same finds nothing, others find theirs."""
    secret, other = (
        "Mnemosyne keeps the seventh lantern under the bridge.",
        "Lethe carries a blue umbrella to the harbour.",
    )
    told, kept = tell(client, secret), tell(client, other)
    assert tell(client, secret, told.conversation).cached_tokens > 0
    erased = delete(client, told.conversation)
    assert erased.pop("kv_pages") > 0
    assert erased == {"kv_pages_in_use": 0, "replicas": REPLICAS, "replicas_missed": 0}
    assert tell_anew(client, secret, told.rank).cached_tokens == 0
    assert tell(client, other, kept.conversation).cached_tokens > 0


def test_a_frozen_replica_is_missed_and_told_later(cluster: ClusterProcess, client: OpenAI) -> None:
    """The deletion says so and succeeds; what the replica held is dropped once it wakes."""
    secret = "The frozen heron wrote eleven letters to the quiet orchard."
    told = tell(client, secret)
    pid = next(replica["pid"] for replica in cluster.status()["replicas"] if str(replica["rank"]) == told.rank)
    os.kill(pid, signal.SIGSTOP)
    try:
        erased = delete(client, told.conversation)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert erased == {"kv_pages": 0, "kv_pages_in_use": 0, "replicas": REPLICAS - 1, "replicas_missed": 1}
    wait_until(
        lambda: tell_anew(client, secret, told.rank).cached_tokens == 0, timeout_s=60, what="the replica has forgotten"
    )
    assert cluster.serves(REPLICAS)


def test_a_deleted_response_is_in_no_cache(client: OpenAI) -> None:
    """Nor are those that went on from it; the next one to say the same finds nothing."""
    secret = "Calliope hid the silver metronome behind the ninth staircase."
    first = client.responses.with_raw_response.create(
        model=MODEL, input=f"{secret} {secret} {secret}", max_output_tokens=24, temperature=0
    )
    response = first.parse()
    second = client.responses.create(
        model=MODEL, input="And then?", previous_response_id=response.id, max_output_tokens=8
    )
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > 0
    told = client.responses.with_raw_response.delete(response.id).http_response.json()
    assert told["erased"].pop("kv_pages") > 0
    nothing_missed = {"kv_pages_in_use": 0, "replicas": REPLICAS, "replicas_missed": 0}
    assert told == {"id": response.id, "object": "response", "deleted": True, "erased": nothing_missed}
    assert tell_anew(client, secret, first.headers["x-replica-rank"]).cached_tokens == 0


def test_what_the_operator_deletes_leaves_the_caches_soon(cluster: ClusterProcess) -> None:
    """The command reaches the store only; a gateway finds there what replicas are to be told."""
    made = run_command("key", "create", "forgetful", state_dir=cluster.state_dir)
    with cluster.client().with_options(api_key=made.stdout.strip()) as client:
        told = tell(client, "Thalia keeps a paper crocodile in the lighthouse.")

    def pages() -> float:
        return cluster.metrics().get("chatglm_tenant_cached_pages{tenant=forgetful}", 0.0)

    wait_until(pages, timeout_s=10, what="the cache is told of")
    command = ("conversation", "delete", told.conversation, "--tenant", "forgetful")
    assert run_command(*command, state_dir=cluster.state_dir).returncode == 0
    wait_until(lambda: not pages(), timeout_s=30, what="a gateway has told the replicas")
