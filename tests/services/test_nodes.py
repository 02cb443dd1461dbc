"""What a node is asked before the application is put on it, and what the operator is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cluster.demo import CHECKPOINT
from cluster.errors import ConfigurationError
from services.nodes import NodeReport, answers, digests, inspect_node, require
from services.ports import unused_port

SALT = b"salt"


def test_a_node_with_the_same_environment_and_the_model_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is looked for where the driver has it."""
    monkeypatch.setenv("SECRET", "s")
    assert inspect_node(digests({"SECRET": "s"}, SALT), SALT, str(CHECKPOINT)) == NodeReport((), has_model=True)


def test_a_node_says_which_variables_differ_and_sees_no_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another value and a missing one both differ; what is sent to the node does not hold the value."""
    monkeypatch.setenv("SECRET", "another")
    monkeypatch.delenv("MISSING", raising=False)
    expected = digests({"SECRET": "s3cret", "MISSING": "1"}, SALT)
    assert not any(b"s3cret" in digest for digest in expected.values())
    assert inspect_node(expected, SALT, str(tmp_path)) == NodeReport(("SECRET", "MISSING"), has_model=False)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (NodeReport(("CHATGLM_CHANNEL_SECRET",), has_model=True), ["10.0.0.2", "CHATGLM_CHANNEL_SECRET", "env"]),
        (NodeReport((), has_model=False), ["10.0.0.2", "/models/glm"]),
    ],
)
def test_the_operator_is_told_what_a_node_lacks(report: NodeReport, words: list[str]) -> None:
    """The node, the thing, and what to do."""
    with pytest.raises(ConfigurationError) as lacking:
        require("10.0.0.2", report, "/models/glm")
    for word in words:
        assert word in str(lacking.value)


def test_a_cluster_that_is_gone_is_known_at_once() -> None:
    """Without asking Ray, which would try for a minute."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert answers(f"127.0.0.1:{server.getsockname()[1]}")
    assert not answers(f"127.0.0.1:{unused_port()}")
