"""What an operator relies on: metrics of the whole cluster, freed resources, survival of outages."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from openai import APIStatusError, ConflictError, InternalServerError

from tests.support.cluster import MODEL, ClusterProcess, run_command
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

ENDLESS = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count for ever."}],
    "stream": True,
    "max_tokens": 1900,
    "ignore_eos": True,
}


def generated(cluster: ClusterProcess) -> float:
    """Tokens sampled by all replicas since they started."""
    return cluster.metrics()["chatglm_generated_tokens_total"]


def settled(cluster: ClusterProcess) -> float:
    """Tokens sampled, once nothing runs and two reporting periods have brought no more."""
    seen, since = -1.0, time.monotonic()

    def is_settled() -> bool:
        nonlocal seen, since
        metrics = cluster.metrics()
        now = metrics["chatglm_generated_tokens_total"]
        if now != seen or metrics["chatglm_turns{state=running}"]:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 1.2

    wait_until(is_settled, timeout_s=20, what="the cluster is idle")
    return seen


def test_every_gateway_shows_the_same_snapshot_of_all_processes(cluster: ClusterProcess) -> None:
    """Whoever answers, each gateway, dispatcher and replica is there with a label of its own."""
    cluster.client().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=8)

    def processes() -> set[str]:
        text = httpx.get(f"{cluster.url}/metrics", headers={"Connection": "close"}).text
        return {part.split('"')[0] for part in text.split('process="')[1:]}

    wait_until(lambda: len(processes()) == 5, timeout_s=10, what="two gateways, a dispatcher and two replicas report")
    assert len({frozenset(processes()) for _ in range(6)}) == 1
    expected = {
        "chatglm_generated_tokens_total", "chatglm_prompt_tokens_total", "chatglm_cached_tokens_total",
        "chatglm_tokens_per_second", "chatglm_time_to_first_token_seconds_count",
        "chatglm_inter_token_latency_seconds_count", "chatglm_turns{state=running}", "chatglm_turns{state=waiting}",
        "chatglm_pages{state=active}", "chatglm_pins_total{why=pinned}",
    }  # fmt: skip
    wait_until(lambda: expected <= cluster.metrics().keys(), timeout_s=5, what="all metrics are there")


def test_counts_follow_what_clients_received(cluster: ClusterProcess) -> None:
    """Tokens generated grow by exactly what a plain request was charged."""
    before = settled(cluster)
    usage = (
        cluster.client()
        .chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            max_tokens=30,
            extra_body={"ignore_eos": True},
        )
        .usage
    )
    assert usage is not None
    wait_until(lambda: generated(cluster) == before + usage.completion_tokens, timeout_s=5, what="the count")


def test_a_client_that_leaves_frees_its_place_at_once(cluster: ClusterProcess) -> None:
    """After the socket closes, hardly any token more is computed, and the pages are free again."""
    before = settled(cluster)
    headers = {"Authorization": f"Bearer {cluster.key}"}
    received, begin = 0, 0.0
    with httpx.stream("POST", f"{cluster.url}/v1/chat/completions", json=ENDLESS, headers=headers) as response:
        for line in response.iter_lines():
            begin = begin or time.monotonic()
            received += line.startswith("data:")
            if received == 60:
                break
        rate = received / (time.monotonic() - begin)
    wasted = settled(cluster) - before - received
    assert cluster.metrics()["chatglm_pages{state=active}"] == 0
    assert wasted <= max(0.25 * rate, 1) + 16  # 250 ms of generation, two steps, and deltas without text


def test_without_redis_stored_turns_are_refused_and_chat_goes_on(cluster: ClusterProcess) -> None:
    """503 with Retry-After for what needs history, answers for what does not, and recovery by itself."""
    client = cluster.client()
    conversation = client.conversations.create().id
    hello = [{"role": "user", "content": "Hi"}]
    for _ in range(6):
        client.chat.completions.create(model=MODEL, messages=hello, max_tokens=4)  # every gateway knows the key
    (valkey,) = cluster.named("valkey-server")
    valkey.suspend()
    try:
        with pytest.raises(InternalServerError) as refused:
            client.with_options(timeout=4).responses.create(model=MODEL, conversation=conversation, input="Hi")
        assert refused.value.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert client.chat.completions.create(model=MODEL, messages=hello, max_tokens=4).choices
    finally:
        valkey.resume()

    def works() -> bool:
        try:
            return bool(client.responses.create(model=MODEL, conversation=conversation, input="Hi").id)
        except APIStatusError:
            return False

    wait_until(works, timeout_s=20, what="stored turns work again")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """One replica that has room for four turns, for tests that leave it serving."""
    running = ClusterProcess(
        tmp_path_factory.mktemp("narrow") / "state", "--replicas", "1", "--max-num-seqs", "2", "--max-waiting", "2"
    )
    running.start()
    yield running
    running.stop()


def test_without_replicas_turns_wait_or_are_refused_and_work_again(narrow: ClusterProcess) -> None:
    """After kill -9 of every replica: nothing but answers and 503s, and service without a restart by hand."""
    client = narrow.client()
    hello = [{"role": "user", "content": "Hi"}]
    for replica in narrow.named("ServeReplica:chatglm:Replica"):
        replica.kill()
    refusals = []

    def works() -> bool:
        try:
            client.chat.completions.create(model=MODEL, messages=hello, max_tokens=4)
        except APIStatusError as error:
            refusals.append((error.status_code, "retry-after" in error.response.headers))
            return False
        return True

    wait_until(works, timeout_s=90, what="a replacement serves")
    assert set(refusals) <= {(503, True)}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--model", "/nowhere/at/all"], ["/nowhere/at/all"]),
        (["--replicas", "0"], ["--replicas", "greater than or equal to 1"]),
        (["--dtype", "int3"], ["--dtype", "float32"]),
        (["--port", "99999"], ["--port"]),
        (["--redis-url", "http://x"], ["--redis-url", "redis://"]),
    ],
)
def test_a_wrong_value_stops_at_once_with_one_sentence(tmp_path: object, options: list[str], names: list[str]) -> None:
    """Exit status 2, one line that names the option, no traceback."""
    done = run_command("up", *options, state_dir=tmp_path)  # type: ignore[arg-type]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for name in names:
        assert name in done.stderr


def test_a_full_engine_refuses_at_once_and_recovers(narrow: ClusterProcess) -> None:
    """More turns than batch and queue hold: the rest are 429 with Retry-After, those accepted all end."""
    body = {**ENDLESS, "stream": False, "max_tokens": 400}
    headers = {"Authorization": f"Bearer {narrow.key}"}

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{narrow.url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}
    assert ask(0).status_code == 200


def test_one_turn_at_a_time_in_a_conversation(cluster: ClusterProcess) -> None:
    """A second turn meets 409 while the first runs, though its client has left, and works once that was cancelled."""
    client = cluster.client()
    conversation = client.conversations.create().id
    with client.responses.create(
        model=MODEL, conversation=conversation, input="Hi", stream=True, extra_body={"ignore_eos": True}
    ) as first:
        begun = next(iter(first))
        with pytest.raises(ConflictError) as busy:
            client.responses.create(model=MODEL, conversation=conversation, input="Me too")
    assert busy.value.code == "conversation_busy"
    assert client.responses.retrieve(begun.response.id).status == "in_progress"
    assert client.responses.cancel(begun.response.id).status == "cancelled"
    answer = client.responses.create(model=MODEL, conversation=conversation, input="Now?", truncation="auto")
    assert answer.status == "completed"


def processes_by_rank(cluster: ClusterProcess) -> dict[str, psutil.Process]:
    """Both replicas, once they serve."""
    wait_until(lambda: cluster.serves(2), timeout_s=60, what="both replicas serve")
    return {str(replica["rank"]): psutil.Process(replica["pid"]) for replica in cluster.status()["replicas"]}


def replaced(cluster: ClusterProcess, victim: psutil.Process) -> None:
    """Wait until another one serves in its place."""
    wait_until(lambda: cluster.serves(2, without=victim.pid), timeout_s=60, what="a replacement serves")


def test_a_replica_that_dies_in_mid_answer_costs_a_pause(cluster: ClusterProcess) -> None:
    """With kill -9 of one replica under it, a stream goes on at the other one and says what it would have said."""
    client = cluster.client()
    request = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "A long story, please."}],
        "temperature": 0,
        "max_tokens": 1200,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**request).choices[0].message.content
    text, replicas = "", processes_by_rank(cluster)
    stream = client.chat.completions.create(**request, stream=True)

    def read(deltas: int) -> None:
        nonlocal text
        for chunk in itertools.islice(stream, deltas):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""

    read(100)
    victim = replicas[stream.response.headers["x-replica-rank"]]
    victim.kill()
    read(2000)
    assert text == whole
    wait_until(lambda: cluster.metrics()["chatglm_turn_moves_total"] >= 1, timeout_s=5, what="the move is counted")
    replaced(cluster, victim)


def test_a_name_is_remembered_when_the_replica_that_held_it_dies(cluster: ClusterProcess) -> None:
    """The conversation's cache is gone with its replica; its history is not, and the answer shows it."""
    client = cluster.client()
    conversation = client.conversations.create().id

    def say(text: str) -> tuple[str, str]:
        raw = client.responses.with_raw_response.create(
            model=MODEL, conversation=conversation, input=text, temperature=0
        )
        return raw.parse().output_text, raw.headers["x-replica-rank"]

    answer, rank = say("My name is Zorblat.")
    assert "Zorblat" in answer
    assert say("What is my name?") == ("Your name is Zorblat.", rank)
    victim = processes_by_rank(cluster)[rank]
    victim.kill()
    answer, rank_now = say("What is my name?")
    assert (answer, rank_now != rank) == ("Your name is Zorblat.", True)
    replaced(cluster, victim)
