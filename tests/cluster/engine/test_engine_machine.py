"""Any order of requests, steps, aborts, deadlines, failures and evictions keeps pages and answers right.

The machine drives a whole engine over the fake runner, for tenants of several weights and classes; the driver checks
every id and every invariant after each step: pages, the queue's order against one sorted anew, accounts, who is held back
for whom, and that nobody is preempted for a lower class, nor ever the first of the highest.
That the machine would notice a mistake is itself tested, with block managers that are broken on purpose.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cluster.engine import scheduler as scheduler_module
from cluster.engine.block_manager import BlockManager
from cluster.errors import CallerError, OverloadedError
from cluster.protocol import GenerateRequest, Label
from tests.fakes.broken_block_managers import (
    BROKEN,
    IgnoresThePrefix,
    IgnoresTheSalt,
    IndexesTooEarly,
    LeaksTails,
    SharesTheNewestPage,
)
from tests.fakes.engine_driver import CONFIG, NAN_TOKEN, EngineDriver, make_request
from tests.fakes.fake_runner import expected_output

FAST = settings(max_examples=100, stateful_step_count=60, suppress_health_check=list(HealthCheck))
LONG = settings(FAST, max_examples=3000, stateful_step_count=120)

STEMS = [[1] * 24, list(range(24)), [1, 2] * 12]  # few, so that prefixes meet


class EngineMachine(RuleBasedStateMachine):
    """An engine with a small pool, so that preemption and eviction are common."""

    @initialize(
        pages=st.sampled_from([18, 24, 60]),
        budget=st.sampled_from([5, 12, 64]),
        queue=st.sampled_from([3, 9]),
        wait_s=st.sampled_from([2.0, math.inf]),
    )
    def start(self, pages: int, budget: int, queue: int, wait_s: float) -> None:
        config = replace(CONFIG, context_length=64, max_batched_tokens=budget, max_waiting=queue, max_wait_s=wait_s)
        self.driver = EngineDriver(config, num_pages=pages)
        self.num_submitted = 0

    @rule(
        stem=st.sampled_from(STEMS),
        length=st.integers(0, 24),
        tail=st.lists(st.integers(0, 2), min_size=1, max_size=9),
        tenant=st.sampled_from("aaabc"),
        weight=st.sampled_from([0.5, 1.0, 1.0, 4.0]),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        output=st.integers(0, 30),
        seed=st.integers(0, 2),
        temperature=st.sampled_from([0.0, 1.0]),
        stop_ids=st.sampled_from([(), (7,), tuple(range(12))]),
        deadline_s=st.sampled_from([None, None, 3.0]),
        kept=st.sampled_from([0, 0, 0, 4, 11]),
        pin_key=st.sampled_from("xy"),
        is_bad=st.sampled_from([False] * 9 + [True]),
    )
    def submit(
        self,
        *,
        stem,
        length,
        tail,
        tenant,
        weight,
        priority,
        output,
        seed,
        temperature,
        stop_ids,
        deadline_s,
        kept,
        pin_key,
        is_bad,
    ) -> None:
        request = make_request(
            self.num_submitted,
            stem[:length] + tail + [NAN_TOKEN] * is_bad,
            tenant=tenant,
            weight=weight,
            priority=priority,
            max_new_tokens=output,
            temperature=temperature,
            seed=seed,
            stop_ids=stop_ids,
            deadline_s=deadline_s,
            pin_key=pin_key,
        )
        forced = expected_output(request)[: 0 if is_bad else kept]
        self.submit_one(msgspec.structs.replace(request, output_ids=forced))

    def submit_one(self, request: GenerateRequest) -> None:
        self.num_submitted += 1
        try:
            self.driver.submit(request)
        except OverloadedError:
            config, scheduler = self.driver.engine.config, self.driver.engine.scheduler
            assert self.driver.live, "an empty engine refused"
            if len(scheduler.waiting) < config.max_waiting:
                assert config.max_wait_s < math.inf
                assert not request.output_ids, "a turn that goes on was refused for its wait"
        except CallerError:
            needed = len(request.prompt_ids) + request.sampling.max_new_tokens
            assert needed > min(64, 4 * (self.driver.runner.num_pages - 1))

    @rule(seed=st.integers(0, 9), output=st.integers(15, 30))
    def submit_burst(self, seed: int, output: int) -> None:
        """Several long answers at once: more than the pool can hold together."""
        for i, stem in enumerate(STEMS):
            self.submit_one(make_request(self.num_submitted, stem[: 6 * i + 3], max_new_tokens=output, seed=seed))

    @rule(steps=st.integers(1, 20))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.driver.step()

    @precondition(lambda self: self.driver.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.driver.engine.abort(data.draw(st.sampled_from(self.driver.live)))
        self.driver.check()

    @rule(tenant=st.sampled_from("ab"), pin_key=st.sampled_from("xy"))
    def forget(self, tenant: str, pin_key: str) -> None:
        self.driver.engine.forget(Label(tenant=tenant, pin_key=pin_key))
        self.driver.check()

    @rule(seconds=st.sampled_from([1.0, 2.5]))
    def pass_time(self, seconds: float) -> None:
        self.driver.clock.now += seconds

    @rule(kind=st.sampled_from(["evict", "evict", "fail"]))
    def disturb(self, kind: str) -> None:
        if kind == "evict":
            self.driver.engine.scheduler.blocks.clear_cache()
            self.driver.check()
        else:
            self.driver.runner.failures = 1

    def teardown(self) -> None:
        driver = getattr(self, "driver", None)
        if driver is None:
            return
        driver.drain()
        driver.engine.scheduler.blocks.clear_cache()
        driver.check()
        assert driver.engine.scheduler.blocks.num_available == driver.runner.num_pages - 1


def test_engine_survives_any_order_of_events() -> None:
    """About 6,000 rules, several steps to many of them, in short runs."""
    run_state_machine_as_test(EngineMachine, settings=FAST)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_engine_survives_many_orders_of_events() -> None:
    """Some hundred thousand rules in longer runs."""
    run_state_machine_as_test(EngineMachine, settings=LONG)


def drive(seed: int, *, checks_inside: bool) -> None:
    """A fixed busy workload over a small pool, with shared prefixes, two tenants, aborts and preemptions."""
    rng = random.Random(seed)
    driver = EngineDriver(replace(CONFIG, context_length=64), num_pages=26)
    if not checks_inside:
        driver.engine.scheduler.debug_check = lambda: None
    for i in range(60):
        stem = rng.choice(STEMS)[: rng.choice((3, 5, 11, 15, 23))]
        request = make_request(
            i,
            [*stem, rng.randrange(3)],
            tenant=rng.choice("ab"),
            max_new_tokens=rng.randrange(1, 24),
            seed=rng.randrange(2),
        )
        driver.submit(request)
        for _ in range(rng.randrange(4)):
            driver.step()
        if rng.random() < 0.1 and driver.live:
            driver.engine.abort(rng.choice(driver.live))
    driver.drain()


def test_workload_passes_with_the_real_block_manager() -> None:
    """The workload that must expose the broken ones is served without a fault by the real one."""
    for seed in range(3):
        drive(seed, checks_inside=True)


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_block_manager_is_noticed(broken: type[BlockManager], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each deliberate mistake is found by the driver's checks, or breaks the bookkeeping outright."""
    monkeypatch.setattr(scheduler_module, "BlockManager", broken)
    with pytest.raises((AssertionError, KeyError)):
        drive(0, checks_inside=True)


@pytest.mark.parametrize("broken", [IgnoresThePrefix, IgnoresTheSalt, IndexesTooEarly, LeaksTails, SharesTheNewestPage])
def test_broken_block_manager_is_noticed_from_outside(
    broken: type[BlockManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runner, ids, tenants and the count of pages give a mistake away even without a look inside."""
    monkeypatch.setattr(scheduler_module, "BlockManager", broken)
    with pytest.raises(AssertionError):
        drive(0, checks_inside=False)
