"""`chatglm-cluster status`: what it prints, and what it says when nobody answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from cluster.errors import ConfigurationError
from services.cli.status import print_once, read_status, status, watch_json, watch_table
from services.cli.status_view import view
from services.gateway.schemas.status import ClusterStatus
from services.gateway.status import assemble
from services.queue.base import QueueLag
from services.state import Endpoint, StateFolder
from services.turns.metrics import TurnMetrics
from tests.support.statuses import (
    board,
    deployment,
    dispatcher_report,
    facts,
    failed,
    gateway_report,
    replica_report,
)


def one_of_two() -> ClusterStatus:
    """A cluster whose second replica cannot load."""
    metrics = TurnMetrics()
    metrics.pins.update(pinned=20, placed=4)
    metrics.errors.update(overloaded=3)
    report = replica_report("serving1", 0, prompt_tokens=200, cached_tokens=150, pages_total=8, pages_cached=3)
    return assemble(
        facts(replicas=deployment(2, serving1="RUNNING", trying22="STARTING")),
        board(report, gateway_report("g1", metrics), loading=(failed(1, "trying22", "/m: no [red] weights.", 3),)),
    )


def shown(status: ClusterStatus, width: int = 160) -> str:
    """What a terminal of that width shows."""
    console = Console(file=io.StringIO(), width=width)
    console.print(view(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_tells_who_serves_and_why_the_others_do_not(width: int) -> None:
    """Rank, state, load and share of each, the reason word by word, pins and refusals; also in a narrow terminal."""
    text = shown(one_of_two(), width)
    assert "cluster RUNNING, 1 of 2 replicas serve" in text
    (serving,) = [line.split() for line in text.splitlines() if "serving1" in line]
    assert serving[:3] == ["0", "serving1", "RUNNING"]
    assert serving[-2:] == ["3/8", "75%"]
    assert "Rank 1 cannot load on 10.0.0.1, tried 3 times: /m: no [red] weights." in text
    assert "pins: 20 kept, 0 spilled, 0 moved, 4 placed" in text
    assert "3 overloaded" in text


def test_dispatchers_and_background_turns_have_a_line() -> None:
    """Who carries turns out, how full each is, and how many wait for how long."""
    lag = QueueLag(waiting=7, tenants=2, working=3, delayed=5, dead=1, oldest_s=12.34)
    told = board(dispatcher_report("d1", used=3, lag=lag))
    dispatchers = deployment(2, d1="RUNNING", d2="STARTING")
    text = shown(assemble(facts(replicas=deployment(0), dispatchers=dispatchers), told))
    assert "2 dispatchers: d1 RUNNING on 10.0.0.1 (3 of 64 slots), d2 STARTING on 10.0.0.1" in text
    assert "background turns: 7 waiting, the first for 12 s, 3 in work, 5 delayed, 1 given up" in text


def test_where_the_output_is_no_terminal_a_reason_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """However long; a script may search for it."""
    reason = "/model: " + "no weights, " * 40
    loading = (failed(1, "trying22", reason),)
    print_once(assemble(facts(replicas=deployment(1, trying22="STARTING")), board(loading=loading)), as_json=False)
    out = capsys.readouterr().out
    assert f"Rank 1 cannot load on 10.0.0.1, tried once: {reason}\n" in out
    assert any(line.split()[:3] == ["1", "trying22", "STARTING"] for line in out.splitlines())


def test_json_is_the_whole_status_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What a script reads is what the gateway said."""
    print_once(one_of_two(), as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert ClusterStatus.model_validate_json(line) == one_of_two()


def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(base_url="http://gateway", transport=httpx.MockTransport(answer))


def refuse(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("Connection refused")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuse, ["No gateway answers at http://gateway", "Connection refused", "chatglm-cluster up"]),
        (lambda _: httpx.Response(401, json={"error": {"message": "This needs it."}}), ["refused: This needs it."]),
        (lambda _: httpx.Response(502, text="<html>"), ["refused: HTTP 502"]),
        (lambda _: httpx.Response(200, json={"object": "status"}), ["no gateway of this version"]),
    ],
    ids=["nobody there", "wrong token", "not ours", "another version"],
)
def test_no_answer_is_one_sentence(answer: Callable[[httpx.Request], httpx.Response], words: list[str]) -> None:
    """It names the address and what is wrong, and it is the error that ends the command with status 2."""
    with client(answer) as http, pytest.raises(ConfigurationError) as error:
        read_status(http)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_without_a_cluster_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    """The state folder holds no endpoint."""
    with pytest.raises(ConfigurationError, match="chatglm-cluster up"):
        status(state_dir=tmp_path)


def test_the_token_of_the_state_folder_is_shown_to_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Address and token both come from it."""
    StateFolder(tmp_path).write_endpoint(Endpoint("http://there", "redis://x", "m", "the-token"))
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=one_of_two().json_bytes())

    real = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **options: real(**options, transport=httpx.MockTransport(answer)))
    status(state_dir=tmp_path)
    assert (str(asked[0].url), asked[0].headers["authorization"]) == ("http://there/status", "Bearer the-token")
    assert "1 of 2 replicas serve" in capsys.readouterr().out


class Answers:
    """Readings one after the other; then the person presses Ctrl-C."""

    def __init__(self, *answers: ClusterStatus | ConfigurationError) -> None:
        self._answers: Iterator[ClusterStatus | ConfigurationError] = iter(answers)
        self._left = len(answers)

    def read(self) -> ClusterStatus:
        self._left -= 1
        answer = next(self._answers)
        if isinstance(answer, ConfigurationError):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        if not self._left:
            raise KeyboardInterrupt


def test_watching_survives_an_outage() -> None:
    """The last answer stays in view with what is wrong, until a newer one comes."""
    console = Console(file=io.StringIO(), width=160, force_terminal=True, force_interactive=True)
    whole = assemble(facts(replicas=deployment(1, r1="RUNNING")), board(replica_report("r1", 0)))
    answers = Answers(one_of_two(), ConfigurationError("No gateway answers."), whole)
    with pytest.raises(KeyboardInterrupt):
        watch_table(answers.read, console, answers.sleep)
    assert isinstance(console.file, io.StringIO)
    frames = console.file.getvalue().split("cluster ")[1:]
    assert ["No gateway answers. Shown is the last answer." in frame for frame in frames[:3]] == [False, True, False]
    assert ["trying22" in frame for frame in frames[:3]] == [True, True, False]


def test_watching_begins_only_when_somebody_answers() -> None:
    """A first reading that fails ends the command."""
    with pytest.raises(ConfigurationError):
        watch_table(Answers(ConfigurationError("No gateway answers.")).read)


def test_watching_as_json_is_a_line_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    """One object each; a script sees an outage as the command's end."""
    answers = Answers(one_of_two(), one_of_two(), ConfigurationError("No gateway answers."))
    with pytest.raises(ConfigurationError):
        watch_json(answers.read, answers.sleep)
    assert len(capsys.readouterr().out.splitlines()) == 2
