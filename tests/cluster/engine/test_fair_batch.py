"""Tenants side by side in one engine: a flood, a conversation, weights, classes. All in simulated time."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.fairness import COMPUTED, OUTPUT
from cluster.errors import OverloadedError
from cluster.protocol import GenerateRequest, Tokens
from tests.fakes.engine_driver import CONFIG as SMALL
from tests.fakes.engine_driver import EngineDriver, make_request
from tests.fakes.fake_clock import FakeClock
from tests.fakes.queue_simulation import CONFIG, TimedRunner

BATCH = replace(CONFIG, max_num_seqs=8, max_batched_tokens=256, max_prefill_while_decoding=64)


@dataclass
class Turn:
    """What a client sees of one answer, in seconds of simulated time."""

    submitted_at: float
    admitted_at: float = math.nan
    token_times: list[float] = field(default_factory=list)

    @property
    def wait_s(self) -> float:
        return self.admitted_at - self.submitted_at

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.token_times)]


class Service:
    """An engine in simulated time, and what each attempt's client sees of it."""

    def __init__(self, config: EngineConfig = BATCH, num_pages: int = 4000) -> None:
        self.clock = FakeClock(0.0)
        self.engine = Engine(TimedRunner(self.clock, num_pages), config, clock=self.clock)
        self.turns: dict[int, Turn] = {}
        self.live: set[int] = set()

    def submit(self, request: GenerateRequest) -> None:
        self.engine.submit(request)
        self.turns[request.attempt] = Turn(self.clock.now)
        self.live.add(request.attempt)

    def step(self) -> None:
        began = self.clock.now
        outputs = self.engine.step()
        for seq in self.engine.scheduler.running:
            self._admit(seq.attempt, began)
        for attempt, event in outputs:
            self._admit(attempt, began)
            if isinstance(event, Tokens):
                self.turns[attempt].token_times.append(self.clock.now)
            else:
                self.live.discard(attempt)

    def _admit(self, attempt: int, at_s: float) -> None:
        turn = self.turns[attempt]
        turn.admitted_at = at_s if math.isnan(turn.admitted_at) else turn.admitted_at


def converse(tenant_of: Callable[[int], str], *, num_turns: int = 4) -> list[Turn]:
    """The turns of B's conversation beside 50 long requests that come at once before it; each is followed by another."""
    service = Service()
    numbers = itertools.count(1000)

    def keep_up_load() -> None:
        for slot in range(50):
            if loads.get(slot) not in service.live:
                loads[slot] = next(numbers)
                request = make_request(loads[slot], [loads[slot]] * 200, tenant=tenant_of(slot), max_new_tokens=60)
                service.submit(request)

    loads: dict[int, int] = {}
    prompt: list[int] = []
    keep_up_load()
    for turn in range(num_turns):
        prompt += [turn] * 40
        service.submit(make_request(turn, prompt, tenant="b", max_new_tokens=30))
        while turn in service.live:
            service.step()
            keep_up_load()
        prompt += [1] * 30
    return [service.turns[turn] for turn in range(num_turns)]


def test_flood_costs_a_conversation_no_more_than_as_many_tenants_do() -> None:
    """B waits, and has its tokens apart, at most 1.2 times as long as beside 50 tenants with one request each."""
    flood, crowd = converse(lambda _: "a"), converse(lambda i: f"a{i}")
    assert sum(turn.wait_s for turn in flood) <= 1.2 * sum(turn.wait_s for turn in crowd)
    assert max(max(turn.gaps_s) for turn in flood) <= 1.2 * max(max(turn.gaps_s) for turn in crowd)
    assert sum(sum(turn.gaps_s) for turn in flood) <= 1.2 * sum(sum(turn.gaps_s) for turn in crowd)


def test_backlogged_tenants_are_served_by_their_weights() -> None:
    """Of weights 2 and 1, with more work than can be done, the counts stay within one token budget of each other."""
    config = replace(BATCH, max_num_seqs=6)
    service = Service(config)
    for i in range(120):
        heavy, light = 2 * i, 2 * i + 1
        service.submit(make_request(heavy, [heavy] * 150, tenant="heavy", weight=2.0, max_new_tokens=8))
        service.submit(make_request(light, [light] * 150, tenant="light", max_new_tokens=8))
    accounts = service.engine.scheduler.planner.accounts
    heavy_account, light_account = accounts.get("heavy"), accounts.get("light")
    while heavy_account.num_waiting and light_account.num_waiting:
        service.step()
        assert abs(heavy_account.count - light_account.count) <= config.max_batched_tokens
    served = Counter("light" if attempt % 2 else "heavy" for attempt in service.turns if attempt not in service.live)
    assert served["heavy"] == pytest.approx(2 * served["light"], abs=6)


@pytest.mark.parametrize("length", [100, 300, 900])
def test_no_tenant_gets_ahead_by_more_than_a_budget(length: int) -> None:
    """However long their prompts are, of which some end before others go on: at no step, by weight."""
    config = replace(BATCH, max_num_seqs=6)
    service, tenants = Service(config), {"a": 2.0, "b": 1.0, "c": 1.0}
    for i in range(45):
        tenant = "abc"[i % 3]
        request = make_request(i, [i] * length, tenant=tenant, weight=tenants[tenant], max_new_tokens=8)
        service.submit(request)
    accounts = [service.engine.scheduler.planner.accounts.get(tenant) for tenant in tenants]
    while all(account.num_waiting for account in accounts):
        service.step()
        counts = [account.count for account in accounts]
        assert max(counts) - min(counts) <= config.max_batched_tokens


def test_prompts_of_tenants_that_come_together_are_done_one_after_another() -> None:
    """Their first ids come on average in little more than half of the last one's time, and that one is no later for it."""
    config = replace(BATCH, max_batched_tokens=512, max_prefill_while_decoding=256)
    service, num_prompts, length = Service(config), 8, 400
    for i in range(num_prompts):
        service.submit(make_request(i, [i] * length, tenant=f"t{i}", max_new_tokens=40))
    while service.live:
        service.step()
    first = sorted(turn.token_times[0] for turn in service.turns.values())
    assert sum(first) / len(first) <= 0.62 * first[-1]
    num_tokens = num_prompts * length
    assert first[-1] <= 1.1 * (0.02 * num_tokens / 256 + 0.001 * num_tokens)


def test_long_outputs_are_charged_while_they_run() -> None:
    """A tenant whose answers are running falls behind one that has just come, token by token."""
    driver = EngineDriver()
    driver.submit(make_request(1, [1, 2, 3], tenant="a", max_new_tokens=40))
    driver.step()
    account = driver.engine.scheduler.planner.accounts.get("a")
    before = account.count
    for _ in range(5):
        driver.step()
    assert account.count - before == 5 * OUTPUT


def test_cost_is_that_of_what_was_computed() -> None:
    """A prompt is charged once, chunk by chunk; what the cache held costs a tenth."""
    driver = EngineDriver()
    driver.run(make_request(1, list(range(40)), max_new_tokens=1))
    driver.submit(make_request(3, list(range(40)), tenant="a", max_new_tokens=20))
    accounts = driver.engine.scheduler.planner.accounts
    start = accounts.get("a").count
    driver.step()
    assert accounts.get("a").count - start == pytest.approx(4 * COMPUTED + OUTPUT + 36 * 0.1)


def test_prefill_is_bounded_while_answers_run() -> None:
    """Beside a running answer a step computes at most max_prefill_while_decoding prompt tokens, alone the whole budget."""
    driver = EngineDriver(replace(SMALL, max_batched_tokens=24, max_prefill_while_decoding=8))
    driver.submit(make_request(1, [1] * 40, max_new_tokens=4))
    computed = [driver.runner.computed]
    for _ in range(2):
        driver.step()
        computed.append(driver.runner.computed)
    driver.submit(make_request(2, [2] * 40))
    for _ in range(3):
        driver.step()
        computed.append(driver.runner.computed)
    assert [later - earlier for earlier, later in itertools.pairwise(computed)] == [24, 16, 9, 9, 9]


def test_newcomer_takes_the_place_of_a_flood() -> None:
    """With all slots taken by A, B's turn comes in at once for A's latest, which goes on afterwards unharmed."""
    driver = EngineDriver(num_pages=80)
    for i in range(6):
        driver.submit(make_request(i, [i] * 9, tenant="a", max_new_tokens=30))
    for _ in range(10):
        driver.step()
    driver.submit(make_request(10, [10] * 9, tenant="b", max_new_tokens=5))
    for _ in range(2):
        driver.step()
    assert 10 in [seq.attempt for seq in driver.engine.scheduler.running]
    assert driver.queued[0] == 3
    driver.drain()


def test_swaps_stop_at_the_share() -> None:
    """B's flood gets its half of the slots from A's, and neither takes from the other again."""
    driver = EngineDriver(replace(SMALL, max_batched_tokens=64), num_pages=80)
    for i in range(8):
        driver.submit(make_request(i, [i] * 9, tenant="a", max_new_tokens=40))
    driver.step()
    for i in range(8, 16):
        driver.submit(make_request(i, [i] * 9, tenant="b", max_new_tokens=40))
    for _ in range(3):
        driver.step()
    stats = driver.engine.stats()
    assert Counter(seq.account.tenant for seq in driver.engine.scheduler.running) == {"a": 2, "b": 2}
    for _ in range(25):
        driver.step()
    assert driver.engine.stats().preemptions == stats.preemptions == 2
    driver.drain()


def test_pages_make_room_as_slots_do() -> None:
    """With all pages taken by A, B's turn comes in for A's latest."""
    driver = EngineDriver(replace(SMALL, max_num_seqs=12, max_batched_tokens=64), num_pages=40)
    for i in range(4):
        driver.submit(make_request(i, [i] * 30, tenant="a", max_new_tokens=20))
    for _ in range(4):
        driver.step()
    driver.submit(make_request(10, [10] * 30, tenant="b", max_new_tokens=4))
    for _ in range(3):
        driver.step()
    assert 10 in [seq.attempt for seq in driver.engine.scheduler.running]
    driver.drain()


def test_higher_class_takes_the_place_of_a_lower_one() -> None:
    """Smaller numbers go first in the queue, and into a batch that larger ones fill, whatever their tenants' shares."""
    driver = EngineDriver(replace(SMALL, max_num_seqs=2, max_batched_tokens=64))
    for i in range(4):
        driver.submit(make_request(i, [i] * 5, tenant="a", priority=1, max_new_tokens=12))
    driver.step()
    driver.submit(make_request(8, [8] * 5, tenant="a", priority=0, max_new_tokens=4))
    driver.step()
    assert [seq.attempt for seq in driver.engine.scheduler.running] == [0, 8]
    assert driver.queued == [1, 2, 3]
    driver.drain()


def test_lower_class_displaces_nobody() -> None:
    """A tenant below its share waits when those in the batch are of a higher class."""
    driver = EngineDriver(replace(SMALL, max_num_seqs=2, max_batched_tokens=64))
    for i in range(3):
        driver.submit(make_request(i, [i] * 5, tenant="a", max_new_tokens=12))
    driver.submit(make_request(8, [8] * 5, tenant="b", priority=1, max_new_tokens=4))
    driver.step()
    assert driver.queued == [2, 8]
    driver.drain()
    assert driver.engine.stats().preemptions == 0


def test_flood_is_refused_and_others_are_not() -> None:
    """When one tenant has filled the queue, it is full for that tenant; another one's turn is taken."""
    driver = EngineDriver(replace(SMALL, max_waiting=4))
    for i in range(4):
        driver.submit(make_request(i, [i], tenant="a"))
    with pytest.raises(OverloadedError):
        driver.engine.submit(make_request(5, [1], tenant="a"))
    for i in (6, 7):
        driver.submit(make_request(i, [1], tenant="b"))
    with pytest.raises(OverloadedError):
        driver.engine.submit(make_request(8, [1], tenant="b"))
    driver.drain()
