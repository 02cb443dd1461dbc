"""Sequences of one prompt: it is computed once, whatever becomes of the one that computes it."""

from dataclasses import replace

import pytest

from cluster.protocol import FinishReason, Label
from tests.fakes.engine_driver import CONFIG, EngineDriver, make_request

PROMPT = list(range(42))  # ten whole pages and two tokens
WIDE = replace(CONFIG, max_num_seqs=6, max_batched_tokens=34)  # a chunk of 32 leaves room to look at the next


@pytest.fixture
def driver() -> EngineDriver:
    return EngineDriver(WIDE, num_pages=120)


@pytest.mark.parametrize("budget", [12, 64])
def test_samples_of_one_prompt_compute_it_once(budget: int) -> None:
    """Four attempts at one prompt compute its whole pages once, in however many chunks."""
    driver = EngineDriver(replace(WIDE, max_batched_tokens=budget), num_pages=120)
    driver.run(*[make_request(i, PROMPT, seed=i) for i in range(4)])
    assert driver.runner.computed == 42 + 3 * 2 + 4 * 7
    assert [driver.finishes[i].usage.cached_tokens for i in range(4)] == [0, 40, 40, 40]


def test_no_ids_of_a_step_are_left_when_something_is_forgotten(driver: EngineDriver) -> None:
    """Those of the pages that were being computed, by which followers are found, are known during a step only."""
    driver.submit(make_request(0, PROMPT))
    driver.step()
    assert driver.engine.scheduler.planner.followers._leaders
    driver.engine.forget(Label(tenant="a", pin_key=""))
    assert not driver.engine.scheduler.planner.followers._leaders
    driver.submit(make_request(1, PROMPT))
    driver.drain()
    assert driver.finishes[1].usage.cached_tokens == 40


def test_common_beginning_is_computed_once(driver: EngineDriver) -> None:
    """Prompts that begin alike wait for what is common, and for no more."""
    driver.run(*[make_request(i, [*PROMPT[:33], 50 + i, *PROMPT[:20]], max_new_tokens=1) for i in range(3)])
    assert [driver.finishes[i].usage.cached_tokens for i in range(3)] == [0, 32, 32]


def test_others_pass_those_who_wait_for_pages(driver: EngineDriver) -> None:
    """A request behind a follower comes into the batch before it."""
    for i in (0, 1):
        driver.submit(make_request(i, PROMPT))
    driver.submit(make_request(2, [9] * 5))
    driver.step()
    driver.step()
    assert 2 in [seq.attempt for seq in driver.engine.scheduler.running]
    assert 1 not in [seq.attempt for seq in driver.engine.scheduler.running]
    driver.drain()


def test_tenants_do_not_wait_for_each_other(driver: EngineDriver) -> None:
    """An equal prompt of another tenant is computed on its own."""
    driver.run(make_request(0, PROMPT, tenant="a"), make_request(1, PROMPT, tenant="b"))
    assert driver.finishes[1].usage.cached_tokens == 0


@pytest.mark.parametrize("end", ["abort", "deadline", "failure"])
def test_follower_goes_on_when_its_leader_ends(driver: EngineDriver, end: str) -> None:
    """Whatever ends the leader, one of its followers takes over and the others follow that one."""
    driver.submit(make_request(0, PROMPT, deadline_s=1.0))
    for i in (1, 2):
        driver.submit(make_request(i, PROMPT, seed=i))
    driver.step()
    assert {seq.attempt for seq in driver.engine.scheduler.waiting.held} == {1, 2}
    if end == "abort":
        driver.engine.abort(0)
    elif end == "deadline":
        driver.clock.now += 2.0
    else:
        driver.runner.failures = 1
    driver.drain()
    assert driver.finishes[0].reason in (FinishReason.ABORTED, FinishReason.FAILED)
    assert [driver.finishes[i].reason for i in (1, 2)] == [FinishReason.LENGTH] * 2
    assert driver.finishes[2].usage.cached_tokens == 40


def test_follower_goes_on_when_its_leader_is_preempted() -> None:
    """A leader that makes room for another tenant lets its followers go; all of them end."""
    driver = EngineDriver(replace(CONFIG, max_num_seqs=2, max_batched_tokens=8), num_pages=60)
    driver.submit(make_request(0, [7] * 5, tenant="a", max_new_tokens=30))
    driver.step()
    for i in (1, 2):
        driver.submit(make_request(i, PROMPT, tenant="a", seed=i))
    for _ in range(2):
        driver.step()
    assert {seq.attempt for seq in driver.engine.scheduler.waiting.held} <= {2}
    driver.submit(make_request(3, [3] * 5, tenant="b"))
    driver.drain()
    assert driver.engine.stats().preemptions == 1


def test_held_sequence_can_be_aborted(driver: EngineDriver) -> None:
    """A follower that is aborted while it is held back ends at once and comes back never."""
    for i in (0, 1):
        driver.submit(make_request(i, PROMPT))
    driver.step()
    driver.engine.abort(1)
    driver.step()
    assert driver.finishes[1].reason is FinishReason.ABORTED
    driver.drain()


def test_higher_class_does_not_wait_for_a_lower_one(driver: EngineDriver) -> None:
    """Pages that a lower class computes are computed again rather than waited for."""
    driver.submit(make_request(0, PROMPT, priority=1))
    driver.step()
    driver.submit(make_request(1, PROMPT, priority=0))
    driver.step()
    assert 1 in [seq.attempt for seq in driver.engine.scheduler.running]
    driver.drain()
