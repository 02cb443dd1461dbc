"""One cluster for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import ClusterProcess
from tests.support.leftovers import leftovers_of


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcess]:
    """A running cluster: the demo model, float32, 2 replicas, 2 gateways, embedded Valkey."""
    running = ClusterProcess(tmp_path_factory.mktemp("cluster") / "state", "--gateways", "2")
    with leftovers_of(running) as leftovers:
        running.start()
        yield running
        leftovers.learn()
        assert running.stop() == [], "processes outlived the cluster"
        assert leftovers.found() == []
    assert running.output.rstrip().endswith("stopped"), running.output
