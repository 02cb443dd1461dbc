"""Whether predicted waits come true, and who is refused by them. All in simulated time."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.admission import Admission
from cluster.engine.block_manager import BlockManager
from cluster.engine.fairness import Accounts
from cluster.engine.queue import Queue
from cluster.errors import OverloadedError
from tests.fakes.engine_driver import CONFIG as SMALL
from tests.fakes.engine_driver import EngineDriver, make_request
from tests.fakes.queue_simulation import CONFIG, Arrival, QueueSimulation, Wait, poisson

LONG_ANSWERS = {"rate": 2.6, "prompt": (5, 40), "output": (20, 200)}
LONG_PROMPTS = {"rate": 1.1, "prompt": (200, 1500), "output": (1, 9)}
WORKLOADS = {
    "slots": (QueueSimulation, {}, LONG_ANSWERS),
    "prefill": (QueueSimulation, {}, LONG_PROMPTS),
    "pages": (QueueSimulation, {"num_pages": 60, "max_num_seqs": 32}, {**LONG_ANSWERS, "prompt": (5, 100)}),
    "cached": (QueueSimulation, {}, {**LONG_PROMPTS, "rate": 10.0, "shared": 0.9}),
    "mixed": (QueueSimulation, {"max_batched_tokens": 256}, {"rate": 2.0, "prompt": (5, 900), "output": (1, 250)}),
}


def judged(waits: list[Wait], *, from_s: float = 20.0, at_least_s: float = 5.0) -> list[float]:
    """Predicted over actual of the waits that began after a warm-up and were worth predicting."""
    long = [wait for wait in waits if wait.accepted_at >= from_s and wait.actual_s >= at_least_s]
    return [wait.predicted_s / wait.actual_s for wait in long]


def share_within_two(ratios: list[float]) -> float:
    return sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", WORKLOADS)
def test_predictions_come_true_within_a_factor_of_two(name: str, seed: int) -> None:
    """Under steady load, whatever is short (places, pages, prompt time), waits of 5 s and more are foreseen."""
    make, options, load = WORKLOADS[name]
    waits = make(**options).run(poisson(random.Random(seed), seconds=160.0, **load))
    ratios = judged(waits)
    assert len(ratios) > 30, "the load makes nobody wait"
    assert share_within_two(ratios) > 0.97


@pytest.mark.parametrize("load", [LONG_ANSWERS, LONG_PROMPTS], ids=["answers", "prompts"])
def test_idle_hour_changes_nothing(load: dict[str, float]) -> None:
    """After an hour without a request the next rush is foreseen from its first waits on."""
    simulation = QueueSimulation()
    simulation.run(poisson(random.Random(1), seconds=60.0, **load))
    later = 3600.0
    rush = {**load, "rate": 2 * load["rate"]}
    waits = simulation.run(poisson(random.Random(2), seconds=40.0, start_s=later, **rush))
    assert share_within_two(judged(waits, from_s=later)) > 0.97


def test_one_long_step_does_not_spoil_the_pace() -> None:
    """A step of five seconds in a steady queue leaves the later predictions right."""
    simulation = QueueSimulation()
    simulation.runner.late = (60.0, 5.0)
    waits = simulation.run(poisson(random.Random(3), seconds=120.0, **{**LONG_ANSWERS, "rate": 2.9}))
    assert simulation.runner.late[0] == math.inf, "no step was late"
    ratios = judged([wait for wait in waits if wait.accepted_at > 65.0])
    assert len(ratios) > 30
    assert share_within_two(ratios) > 0.97


def test_long_prefill_in_the_batch_is_counted() -> None:
    """Those behind a prompt of 6,000 tokens foresee what is left of it."""
    simulation = QueueSimulation()
    behind = [Arrival(1.0 + i, [i] * 20, 5) for i in range(7)]
    waits = simulation.run([Arrival(0.0, list(range(6000)), 5), *behind])
    assert [wait.predicted_s for wait in waits[1:]] == pytest.approx([wait.actual_s for wait in waits[1:]], rel=0.1)
    assert waits[1].actual_s > 5.0


def test_first_step_is_no_measure() -> None:
    """A step of a minute that loads what is needed at first use makes no later wait look long."""
    simulation = QueueSimulation()
    simulation.runner.late = (0.0, 60.0)
    waits = simulation.run(poisson(random.Random(7), seconds=120.0, **LONG_PROMPTS))
    ratios = judged(waits, from_s=70.0)
    assert len(ratios) > 30
    assert share_within_two(ratios) > 0.97


def test_nobody_is_refused_before_a_measurement() -> None:
    """A first burst of any size is taken: nothing is known of its pace."""
    waits = QueueSimulation(max_wait_s=0.001).run([Arrival(0.0, [i] * 50, 100) for i in range(200)])
    assert all(wait.retry_after_s is None for wait in waits)


@pytest.mark.parametrize("load", [LONG_ANSWERS, LONG_PROMPTS], ids=["answers", "prompts"])
def test_accepted_turns_wait_within_the_bound(load: dict[str, float]) -> None:
    """At three times the load that can be served the accepted wait about the bound, and the batch never starves."""
    rush = {**load, "rate": 3 * load["rate"]}
    simulation = QueueSimulation(max_wait_s=10.0)
    waits = simulation.run(poisson(random.Random(5), seconds=120.0, **rush))
    steady = [wait for wait in waits if wait.accepted_at > 30.0]
    accepted = [wait.actual_s for wait in steady if wait.retry_after_s is None]
    assert len(accepted) < 0.6 * len(steady)
    assert max(accepted) < 15.0
    assert sum(accepted) / len(accepted) > 6.0


@pytest.mark.parametrize(("share", "is_accepted"), [(0.5, False), (1.3, True)])
def test_retry_is_accepted_at_the_told_time(share: float, *, is_accepted: bool) -> None:
    """Whoever comes back when told to, with nobody new in between, is taken; after half the time not yet."""
    simulation = QueueSimulation(max_wait_s=5.0)
    simulation.run(poisson(random.Random(6), seconds=60.0, **LONG_ANSWERS))
    now = simulation.clock.now
    for i in range(80):
        simulation.arrive(Arrival(now, [i] * 20, 110, forced=1))
    fresh = Arrival(now, [100] * 20, 110)
    retry_after_s = simulation.arrive(fresh).retry_after_s
    assert retry_after_s is not None
    assert 10.0 < retry_after_s < 60.0
    simulation.step_until(now + share * retry_after_s)
    assert (simulation.arrive(fresh).retry_after_s is None) == is_accepted


def test_turn_that_goes_on_is_not_refused_for_its_wait() -> None:
    """Where a fresh turn is refused, one with ids already emitted is taken."""
    driver = EngineDriver(replace(SMALL, max_num_seqs=1, max_wait_s=2.0))
    _measure(driver)
    driver.submit(make_request(10, [1, 2]))
    with pytest.raises(OverloadedError) as caught:
        driver.submit(make_request(11, [1, 2]))
    assert caught.value.retry_after_s > 1.0
    driver.submit(make_request(12, [1, 2], output_ids=driver.ids[0][:2]))
    driver.drain()


@given(
    running_s=st.floats(0, 1e6),
    left=st.integers(0, 5),
    prefill=st.tuples(st.integers(1, 10**6), st.floats(1e-6, 1e6)),
    tokens=st.integers(1, 399),
)
def test_empty_engine_refuses_nobody(running_s: float, left: int, prefill: tuple[int, float], tokens: int) -> None:
    """Whatever was measured, without work there is no wait: an overload ends without a restart."""
    admission = Admission(replace(CONFIG, max_wait_s=1e-9), BlockManager(num_pages=26, page_size=16, model_id="m"))
    admission.pace.observe(0.0, running=8, pages=25)
    admission.pace.observe(running_s, running=0, pages=0)
    for _ in range(left):
        admission.pace.leave()
    admission.pace.prefill(tokens=prefill[0], seconds=prefill[1])
    admission.check(make_request(1, [1] * tokens), [], Queue(), Accounts())


def test_turn_that_goes_on_is_admitted_before_fresh_ones() -> None:
    """It is put behind the batch and others that go on, before those that have not begun; then all in order."""
    driver = EngineDriver(replace(SMALL, max_num_seqs=1))
    for i in range(3):
        driver.submit(make_request(i, [i]))
    driver.step()
    for i in (3, 4):
        driver.submit(make_request(i, [i], output_ids=[0]))
    driver.submit(make_request(5, [5]))
    assert driver.queued == [3, 4, 1, 2, 5]
    driver.drain()
    assert list(driver.finishes) == [0, 3, 4, 1, 2, 5]


def test_preempted_turn_stays_before_one_that_goes_on() -> None:
    """What lost its pages has been read already too, and came earlier."""
    driver = EngineDriver(num_pages=14)
    for i in range(3):
        driver.submit(make_request(i, [i] * 8, max_new_tokens=24))
    while not driver.engine.stats().preemptions:
        driver.step()
    driver.submit(make_request(3, [3]))
    driver.submit(make_request(4, [4], output_ids=[0]))
    assert driver.queued[-3:] == [2, 4, 3]
    driver.drain()


def _measure(driver: EngineDriver) -> None:
    """Let a turn of [1, 2] run alone, one second a step."""
    driver.submit(make_request(0, [1, 2]))
    while driver.engine.has_work:
        driver.step()
        driver.clock.now += 1.0
