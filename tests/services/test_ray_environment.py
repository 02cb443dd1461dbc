"""The environment of a cluster: complete, secret where it must be, and the same on all machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.channel.connection import SECRET_VARIABLE
from cluster.errors import ConfigurationError
from services.processes import MARK
from services.ray_environment import DEFAULTS, complete, prepare, shared_variables
from services.runs import BASE
from services.state import Run

HERE = Run("0123abcd", 1, 1, str(BASE / "chatglm-0123abcd"), "")
JOINED = Run("0123abcd", 1, 1, HERE.folder, "10.0.0.1:6379")
NODE_ID = "f" * 56  # HAProxy's manager puts its files into a folder of the node's id
LONGEST_SOCKET = 97  # HAProxy keeps ten of the kernel's 107 bytes for a temporary name


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty environment in place of the process's own."""
    values: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", values)
    return values


def test_a_cluster_of_one_machine_has_its_own_secrets_ports_and_files(environment: dict[str, str]) -> None:
    """Everything its processes need, and files only in the folder of the run."""
    prepare(HERE)
    assert environment[MARK] == HERE.id
    assert DEFAULTS.items() <= environment.items()
    assert len(environment[SECRET_VARIABLE]) >= 32
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_SERVE_HAPROXY_STATS_PORT"] != environment["RAY_SERVE_HAPROXY_METRICS_PORT"]
    paths = [value for value in environment.values() if value.startswith("/")]
    assert len(paths) == 6
    assert all(path.startswith(HERE.folder) for path in paths)


def test_sockets_fit_into_what_the_kernel_allows(environment: dict[str, str]) -> None:
    """HAProxy would not start otherwise."""
    prepare(HERE)
    for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
        path = Path(environment[name])
        assert len(str(path.parent / NODE_ID / path.name)) <= LONGEST_SOCKET


def test_what_the_operator_has_set_stays(environment: dict[str, str]) -> None:
    """But for the mark, which tells one run from another."""
    environment |= {"RAY_SERVE_ENABLE_HA_PROXY": "0", SECRET_VARIABLE: "s", "RAY_AUTH_TOKEN_PATH": "/t", MARK: "x"}
    prepare(HERE)
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert environment[SECRET_VARIABLE] == "s"
    assert "RAY_AUTH_TOKEN" not in environment
    assert environment[MARK] == HERE.id


def test_what_is_printed_once_is_printed_again(environment: dict[str, str]) -> None:
    """So that a machine that has it set does not make another one."""
    first = complete()
    assert complete()[SECRET_VARIABLE] != first[SECRET_VARIABLE]
    environment |= first
    assert complete() == first


def test_a_cluster_is_joined_with_the_environment_of_its_nodes_only(environment: dict[str, str]) -> None:
    """A new secret would differ from theirs, and new files and ports would be nobody's."""
    with pytest.raises(ConfigurationError, match="chatglm-cluster env"):
        prepare(JOINED)
    environment |= complete()
    before = dict(environment)
    prepare(JOINED)
    assert environment == {**before, MARK: JOINED.id}
    assert set(shared_variables()) <= set(before)
