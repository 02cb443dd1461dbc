"""Asking the Serve controller: seldom, together, and without believing that silence is news."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from cluster.errors import RetryLaterError
from services.serve_watch import CACHE_S, ServeWatch
from tests.fakes.fake_clock import FakeClock


class Controller:
    """Counts questions and answers with a number of running replicas, or not at all."""

    def __init__(self) -> None:
        self.asked = 0
        self.running = 1
        self.is_away = False
        self.is_building = False

    async def __call__(self) -> Mapping[str, Any] | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            return None
        replicas = [{"replica_id": str(i), "state": "RUNNING"} for i in range(self.running)]
        deployment = {"status": "HEALTHY", "message": "", "target_num_replicas": 2, "replicas": replicas}
        deployments = {} if self.is_building else {"Replica": deployment}
        state = "DEPLOYING" if self.is_building else "RUNNING"
        app = {"status": state, "message": "", "deployments": deployments}
        return {"applications": {"chatglm": app}}


@pytest.fixture
def controller() -> Controller:
    return Controller()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def watch(controller: Controller, clock: FakeClock) -> ServeWatch:
    return ServeWatch("chatglm", controller, clock)


async def test_many_who_ask_at_once_are_one_question(watch: ServeWatch, controller: Controller) -> None:
    """The controller is spared."""
    assert await asyncio.gather(*(watch.running() for _ in range(10))) == [1] * 10
    assert controller.asked == 1


async def test_news_are_seen_after_a_second(watch: ServeWatch, controller: Controller, clock: FakeClock) -> None:
    """Within it the old number is given."""
    assert await watch.running() == 1
    controller.running = 2
    assert await watch.running() == 1
    clock.now += CACHE_S
    assert await watch.running() == 2


async def test_a_controller_that_is_away_leaves_the_last_facts(
    watch: ServeWatch, controller: Controller, clock: FakeClock
) -> None:
    """They are given with their age, and anew once it answers."""
    assert (await watch.facts())[1] == 0
    controller.is_away = True
    clock.now += 12
    facts, silent_s = await watch.facts()
    assert (facts.replicas.running, silent_s) == (1, 12)
    controller.is_away = False
    clock.now += CACHE_S
    assert (await watch.facts())[1] == 0


async def test_while_serve_builds_a_new_config_the_old_replicas_run_on(
    watch: ServeWatch, controller: Controller, clock: FakeClock
) -> None:
    """A rolling update must not make the gateways unready; only what the first deploy builds is not there yet."""
    assert await watch.running() == 1
    controller.is_building = True
    clock.now += CACHE_S
    facts, _ = await watch.facts()
    assert (facts.state, facts.replicas.running) == ("DEPLOYING", 1)


async def test_before_the_first_deploy_nothing_runs(watch: ServeWatch, controller: Controller) -> None:
    """There is nothing to keep."""
    controller.is_building = True
    assert await watch.running() == 0


async def test_before_the_first_answer_nothing_is_known(watch: ServeWatch, controller: Controller) -> None:
    """No replica is taken for running, and who asks for facts is told to come back."""
    controller.is_away = True
    assert await watch.running() == 0
    with pytest.raises(RetryLaterError, match="controller"):
        await watch.facts()
