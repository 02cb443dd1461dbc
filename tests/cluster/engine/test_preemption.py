"""Who leaves the batch, decided from plain sequences."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from cluster.engine import preemption
from cluster.engine.block_manager import BlockManager
from cluster.engine.fairness import Accounts
from cluster.engine.preemption import Shares, Size
from cluster.engine.sequence import Sequence, SequenceState
from tests.fakes.engine_driver import make_request

PAGE_SIZE = 4
WHOLE = Size(slots=8, pages=64)


class Batch:
    """Running sequences of chosen tenants, classes and lengths."""

    def __init__(self) -> None:
        self.blocks = BlockManager(num_pages=WHOLE.pages + 1, page_size=PAGE_SIZE, model_id="m")
        self.accounts = Accounts()
        self.running: list[Sequence] = []
        self.num_made = 0

    def make(self, tenant: str, *, priority: int = 0, weight: float = 1.0, length: int = 8) -> Sequence:
        request = make_request(self.num_made, [1] * length, tenant=tenant, priority=priority, weight=weight)
        table = self.blocks.open(f"{tenant}{self.num_made}")
        seq = Sequence.from_request(request, arrival=self.num_made, now=0.0, table=table)
        self.num_made += 1
        seq.account = self.accounts.enter(tenant, weight)
        return seq

    def run(self, tenant: str, *, priority: int = 0, weight: float = 1.0, length: int = 8) -> Sequence:
        seq = self.make(tenant, priority=priority, weight=weight, length=length)
        assert self.blocks.grow(seq.table, length)
        seq.num_computed = length - 1
        seq.state = SequenceState.RUNNING
        seq.account.num_running += 1
        self.running.append(seq)
        return seq

    def makers_of_room(self, seq: Sequence, *, slots: int = 1, pages: int = 0) -> list[Sequence]:
        shares = Shares(self.running, self.accounts, WHOLE, PAGE_SIZE)
        return shares.makers_of_room(seq, Size(slots, pages))


def test_lowest_class_goes_first_then_the_highest_count_then_the_latest() -> None:
    """Pages ran out: one after another they leave in the told order; the first of the highest class stays."""
    batch = Batch()
    first = batch.run("a")
    early, late = batch.run("b"), batch.run("b")
    other = batch.run("c")
    background = batch.run("a", priority=1)
    early.account.charge(10)
    other.account.charge(5)
    left = []
    while len(batch.running) > 1:
        left.append(preemption.victim(batch.running))
        batch.running.remove(left[-1])
    assert left == [background, late, early, other]
    assert batch.running == [first]


rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(0, 9)), min_size=2, max_size=8)


@given(rows)
def test_nobody_goes_for_a_lower_class_and_the_oldest_stays(wanted: list[tuple[str, int, int]]) -> None:
    """Whatever runs, the victim is of the lowest class there is besides the one that is spared."""
    batch = Batch()
    for tenant, priority, count in wanted:
        batch.run(tenant, priority=priority).account.charge(count)
    spared = preemption.oldest(batch.running)
    victim = preemption.victim(batch.running)
    assert spared.priority == min(seq.priority for seq in batch.running)
    assert victim is not spared
    assert victim.priority == max(seq.priority for seq in batch.running if seq is not spared)


@given(running=rows, tenant=st.sampled_from("abcd"), priority=st.integers(0, 2), pages=st.integers(0, 12))
def test_swap_cannot_be_undone(running: list[tuple[str, int, int]], tenant: str, priority: int, pages: int) -> None:
    """Those who leave for a share keep theirs, and who comes stays within its own: nobody may take the place back."""
    batch = Batch()
    for name, rank, length in running:
        batch.run(name, priority=rank, length=4 + length)
    seq = batch.make(tenant, priority=priority)
    leaving = batch.makers_of_room(seq, slots=1, pages=pages)
    assert all(other.priority >= priority for other in leaving)
    assert preemption.oldest(batch.running) not in leaving
    for other in leaving:
        batch.running.remove(other)
        other.account.num_running -= 1
    if leaving and all(other.priority == priority for other in leaving):
        seq.state = SequenceState.RUNNING
        batch.blocks.grow(seq.table, len(seq.token_ids))
        batch.running.append(seq)
        for other in leaving:
            assert seq not in batch.makers_of_room(other)


def test_too_little_room_moves_nobody() -> None:
    """When all who may go would not free enough, none goes."""
    batch = Batch()
    for _ in range(6):
        batch.run("a", length=32)
    seq = batch.make("b")
    assert len(batch.makers_of_room(seq, slots=0, pages=8)) == 1
    assert batch.makers_of_room(seq, slots=0, pages=30) == []


def test_shared_pages_do_not_count_as_room() -> None:
    """A sequence that holds only pages of others frees its spare page and no more."""
    batch = Batch()
    prompt = array("i", [1] * 32)
    first = batch.run("a", length=32)
    batch.blocks.commit(first.table, prompt, 32)
    for _ in range(6):
        seq = batch.make("a", length=33)
        seq.table = batch.blocks.open("a0")
        batch.blocks.extend(seq.table, seq.token_ids)
        seq.num_computed, seq.state = 32, SequenceState.RUNNING
        batch.running.append(seq)
    assert batch.makers_of_room(batch.make("b"), slots=0, pages=4) == []
    assert len(batch.makers_of_room(batch.make("b"), slots=0, pages=2)) == 2


def test_preempted_sequence_stays_until_it_has_gained_a_page() -> None:
    """Who came back is not sent away again before it computed a page of its own."""
    batch = Batch()
    for _ in range(5):
        batch.run("a")
    back = batch.run("a")
    back.num_preemptions, back.num_found = 1, 4
    seq = batch.make("b")
    assert batch.makers_of_room(seq) != [back]
    back.num_computed = 8
    assert batch.makers_of_room(seq) == [back]
