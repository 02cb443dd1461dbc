"""What holds of queue, batch, accounts and pages between any two steps. For tests."""

from __future__ import annotations

from cluster.engine.planner import Planner
from cluster.engine.sequence import SequenceState


def check(planner: Planner) -> None:
    """Assert every invariant. O(everything)."""
    _check_batch(planner)
    _check_queue(planner)
    _check_accounts(planner)
    planner.blocks.debug_check([seq.table for seq in planner.running])


def _check_batch(planner: Planner) -> None:
    assert len(planner.running) <= planner.config.max_num_seqs, "the batch is too large"
    assert len(set(planner.running)) == len(planner.running), "a sequence runs twice"
    for seq in planner.running:
        assert seq.state is SequenceState.RUNNING, "the batch holds a sequence that does not run"
        seq.debug_check(planner.config.page_size)


def _check_queue(planner: Planner) -> None:
    for seq in planner.waiting.ordered():
        assert seq.state is SequenceState.WAITING, "the queue holds a sequence that does not wait"
        assert not seq.num_computed + len(seq.table.pages), "a waiting sequence holds pages"
    planner.waiting.debug_check()
    planner.followers.debug_check(planner.waiting.held)


def _check_accounts(planner: Planner) -> None:
    present: dict[str, tuple[int, int]] = {}
    for seq in [*planner.running, *planner.waiting.ordered()]:
        total, running = present.get(seq.account.tenant, (0, 0))
        present[seq.account.tenant] = total + 1, running + (seq.state is SequenceState.RUNNING)
        assert planner.accounts.get(seq.account.tenant) is seq.account, "a tenant has two accounts"
    planner.accounts.debug_check(present)
