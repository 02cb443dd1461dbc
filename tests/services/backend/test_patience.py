"""How long an attempt waits to be taken, and what ends the wait."""

from __future__ import annotations

import pytest

from cluster.errors import ChannelError, ClusterError, NoReplicaError
from services.backend.patience import TICK_S, Patience, Waits


class Wait:
    """An attempt that waits; the test says whom the router chose and who was heard."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.silent: dict[str, float] = {}
        self.suspected: list[str] = []
        self._patience = Patience(
            Waits(choice_s=10, life_s=3, accept_s=60), lambda: self.order, self.silent.get, self.suspected.append
        )

    def sit(self, seconds: float) -> ClusterError | None:
        """Wait so long, or until it is over."""
        for _ in range(round(seconds / TICK_S)):
            if error := self._patience.tick():
                return error
        return None


@pytest.fixture
def wait() -> Wait:
    """A wait that has just begun."""
    return Wait()


def test_nobody_there_is_told_after_ten_seconds(wait: Wait) -> None:
    """A replica that is just being replaced may come in time."""
    assert wait.sit(9.8) is None
    error = wait.sit(0.5)
    assert isinstance(error, NoReplicaError)
    assert error.retry_after_s > 0


def test_a_chosen_replica_without_life_is_suspected(wait: Wait) -> None:
    """Every turn of this process passes it over then; this one goes elsewhere."""
    wait.order = ["frozen", "other"]
    assert wait.sit(2.8) is None
    assert isinstance(wait.sit(0.5), ChannelError)
    assert wait.suspected == ["frozen"]


def test_the_wait_for_a_choice_is_not_the_chosen_ones_silence(wait: Wait) -> None:
    """Its three seconds begin when it is chosen."""
    assert wait.sit(8) is None
    wait.order = ["late"]
    assert wait.sit(2.8) is None


def test_a_replica_in_a_long_step_is_waited_for(wait: Wait) -> None:
    """Its beat goes on while its engine computes for longer than the limit."""
    wait.order = ["busy"]
    wait.silent["busy"] = 0.4
    assert wait.sit(59) is None
    assert wait.suspected == []
    assert isinstance(wait.sit(2), NoReplicaError)


def test_a_replica_that_was_heard_once_but_not_lately_is_dead(wait: Wait) -> None:
    """Its connection is still open: the kernel keeps it while the process is frozen."""
    wait.order = ["frozen"]
    wait.silent["frozen"] = 4
    assert isinstance(wait.sit(3.2), ChannelError)
