"""The queue's head is the first by class, by having begun, by virtual count, by deadline, by arrival."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from cluster.engine.block_manager import BlockManager
from cluster.engine.fairness import Accounts
from cluster.engine.queue import Queue
from cluster.engine.sequence import Sequence
from tests.fakes.engine_driver import make_request


class QueueMachine(RuleBasedStateMachine):
    """Sequences come, go, are held and put back, while counts grow and sometimes shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(num_pages=4, page_size=4, model_id="m")
        self.accounts = Accounts()
        self.queue = Queue()
        self.waiting: list[Sequence] = []
        self.num_made = 0

    @rule(
        tenant=st.sampled_from("abcd"),
        priority=st.integers(0, 2),
        deadline_s=st.sampled_from([None, 1.0, 2.0]),
        has_begun=st.booleans(),
        length=st.integers(1, 9),
    )
    def push(self, *, tenant: str, priority: int, deadline_s: float | None, has_begun: bool, length: int) -> None:
        request = make_request(
            self.num_made,
            [1] * length,
            output_ids=[1] * has_begun,
            tenant=tenant,
            priority=priority,
            deadline_s=deadline_s,
        )
        seq = Sequence.from_request(request, arrival=self.num_made, now=0.0, table=self.blocks.open(tenant))
        self.num_made += 1
        seq.account = self.accounts.enter(tenant, 1.0)
        self.queue.push(seq)
        self.waiting.append(seq)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(seq)
        self.queue.remove(seq)
        self.accounts.leave(seq.account)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), cost=st.integers(-3, 20))
    def charge(self, data: st.DataObject, cost: int) -> None:
        account = data.draw(st.sampled_from(self.waiting)).account
        account.charge(cost)
        if cost < 0:
            self.queue.recount(account)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def hold_or_put_back(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.waiting))
        (self.queue.put_back if seq in self.queue.held else self.queue.hold)(seq)

    def check(self) -> None:
        self.queue.debug_check()
        assert len(self.queue) == len(self.waiting)
        assert all(seq in self.queue for seq in self.waiting)
        for priority in range(3):
            ahead = [seq for seq in self.waiting if seq.priority <= priority]
            assert self.queue.ahead_of(priority) == (len(ahead), sum(len(seq.token_ids) for seq in ahead))

    def teardown(self) -> None:
        self.check()

    @rule()
    def look(self) -> None:
        self.check()


def test_queue_agrees_with_a_sorted_list() -> None:
    """Whatever happened, heads and totals are those of all that wait, sorted anew."""
    run_state_machine_as_test(QueueMachine, settings=settings(max_examples=60, stateful_step_count=40))


def test_order_is_class_begun_count_deadline_arrival() -> None:
    """One sequence of each kind, in the order in which they are taken."""
    blocks, accounts, queue = BlockManager(num_pages=4, page_size=4, model_id="m"), Accounts(), Queue()
    accounts.enter("dear", 1.0).charge(5)
    wanted = [
        {"tenant": "dear", "priority": 1},
        {"tenant": "dear"},
        {"tenant": "cheap"},
        {"tenant": "cheap", "deadline_s": 9.0},
        {"tenant": "cheap", "deadline_s": 3.0},
        {"tenant": "dear", "output_ids": [1]},
    ]
    for i, fields in enumerate(wanted):
        request = make_request(i, [1], **fields)
        seq = Sequence.from_request(request, arrival=i, now=0.0, table=blocks.open("t"))
        seq.account = accounts.enter(request.tenant, 1.0)
        if fields["tenant"] == "cheap":
            seq.account.count = 0.0
        queue.push(seq)
    assert [seq.attempt for seq in queue.ordered()] == [5, 4, 3, 2, 1, 0]
    assert [seq.attempt for seq in queue.heads()] == [5, 4]
