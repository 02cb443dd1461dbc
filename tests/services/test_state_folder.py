"""The state folder: one cluster at a time, private files, clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigurationError
from services.state import Endpoint, StateFolder


def test_two_clusters_never_share_a_folder(tmp_path: Path) -> None:
    """The second one is told so; after the first has ended it may have the folder."""
    first, second = StateFolder(tmp_path), StateFolder(tmp_path)
    first.acquire()
    with pytest.raises(ConfigurationError, match="already runs"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """The key and the endpoint (its Redis URL may hold a password) are private files."""
    state = StateFolder(tmp_path)
    state.write_key("sk-secret")
    state.write_endpoint(Endpoint(url="http://x", redis_url="redis://:pw@y", model="m", operator_token="t"))
    assert state.read_key() == "sk-secret"
    assert state.read_endpoint().redis_url == "redis://:pw@y"
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_folder_without_a_cluster_says_how_to_start_one(tmp_path: Path) -> None:
    """The other commands need a running cluster."""
    with pytest.raises(ConfigurationError, match="chatglm-cluster up"):
        StateFolder(tmp_path).read_endpoint()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in the way is not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--state-dir"):
        StateFolder(tmp_path / "file" / "state").acquire()
