"""Which prompt in the batch goes on first, decided from plain sequences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.begun_prompts import BegunPrompts
from cluster.engine.block_manager import BlockManager
from cluster.engine.fairness import OUTPUT, Accounts
from cluster.engine.sequence import Sequence
from tests.fakes.engine_driver import make_request

BUDGET = 64


class Batch:
    """Prompts in the batch, each with ``rest`` tokens to go and a tenant that has had ``count``."""

    def __init__(self) -> None:
        self._blocks = BlockManager(num_pages=9, page_size=4, model_id="m")
        self._accounts = Accounts()
        self.prompts: list[Sequence] = []

    def prompt(self, *, rest: int, count: float = 0.0, weight: float = 1.0, priority: int = 0) -> Sequence:
        number = len(self.prompts)
        request = make_request(number, [1] * (rest + 3), tenant=f"t{number}", weight=weight, priority=priority)
        seq = Sequence.from_request(request, arrival=number, now=0.0, table=self._blocks.open(request.tenant))
        seq.num_computed = 3
        seq.account = self._accounts.enter(request.tenant, weight)
        seq.account.count = count
        self.prompts.append(seq)
        return seq

    def begun(self) -> BegunPrompts:
        return BegunPrompts(self.prompts, max_lead=BUDGET)


def test_least_count_goes_first() -> None:
    """Then the earlier arrival."""
    batch = Batch()
    batch.prompt(rest=500, count=9)
    expected = [batch.prompt(rest=500, count=4), batch.prompt(rest=500, count=4)]
    begun = batch.begun()
    assert [begun.take(begun.first()) for _ in range(2)] == expected


def test_prompt_ends_before_others_if_its_tenant_is_not_too_far_ahead_by_that() -> None:
    """By one budget of tokens, the draw of the first id included; one token more and it waits."""
    batch = Batch()
    rival = batch.prompt(rest=500, count=10)
    fits = batch.prompt(rest=20, count=10 + BUDGET - OUTPUT - 20)
    assert batch.begun().ending_before(rival) is fits
    fits.account.charge(1)
    assert batch.begun().ending_before(rival) is None


def test_smallest_rest_ends_first() -> None:
    """Of several that may."""
    batch = Batch()
    rival = batch.prompt(rest=500)
    batch.prompt(rest=9, count=2)
    expected = batch.prompt(rest=8, count=5)
    assert batch.begun().ending_before(rival) is expected


def test_no_prompt_ends_before_one_of_a_higher_class() -> None:
    """Nor does a higher one need to: it goes first anyway."""
    batch = Batch()
    high, low = batch.prompt(rest=9), batch.prompt(rest=8, priority=1)
    assert batch.begun().ending_before(high) is high
    assert batch.begun().take(high) is high
    assert batch.begun().ending_before(low) is low


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 200), st.sampled_from([0.5, 1.0, 2.0])), min_size=1))
def test_nobody_gets_further_ahead_than_a_step_may_bring_it(wanted: list[tuple[int, int, float]]) -> None:
    """Whatever runs: with its whole rest and the first id, the tenant has a budget of tokens more than the first in line."""
    batch = Batch()
    for rest, count, weight in wanted:
        batch.prompt(rest=rest, count=count, weight=weight)
    begun = batch.begun()
    rival = begun.first()
    assert rival is not None
    ending = begun.ending_before(rival)
    if ending is not None:
        ending.account.charge(ending.num_remaining + OUTPUT)
        assert ending.account.count - min(seq.account.count for seq in batch.prompts) <= BUDGET / ending.account.weight
