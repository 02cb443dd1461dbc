"""Any order of sequences, wishes, failures and evictions keeps the page cache right, and takes exactly the right pages.

The machine keeps its own notes on every cached page and knows the rule of ``eviction`` in its plainest form, one page
after another; whatever is evicted must be what the rule names. It also knows who made every page, and what of that is
forgotten must be gone, and nothing else. Weights are powers of two, so that shares compare
without rounding.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cluster.engine.block_manager import BlockManager, BlockTable
from cluster.engine.page_owner import Owner
from cluster.engine.page_tree import Node
from cluster.protocol import Forgotten
from tests.fakes.broken_block_managers import BROKEN, ForgetsTheCacheOnly, IgnoresTheWish, LeavesErasedPages

PAGE = 2
FAST = settings(max_examples=60, stateful_step_count=50, suppress_health_check=list(HealthCheck))
LONG = settings(FAST, max_examples=3000, stateful_step_count=100)


@dataclass
class Account:
    """What the plain rule looks at: the pages that one tenant may lose, in order, and those that it holds."""

    salt: str
    weight: float
    held: int
    dead: list[int] = field(default_factory=list)
    live: list[int] = field(default_factory=list)

    @property
    def rank(self) -> tuple[float, str]:
        return -self.held / self.weight, self.salt


def evict_plainly(accounts: list[Account], num_pages: int) -> Iterator[int]:
    """The pages that go."""
    for _ in range(num_pages):
        holders = [account for account in accounts if account.dead or account.live]
        held, weight = sum(account.held for account in holders), sum(account.weight for account in holders)
        over = [account for account in holders if account.held * weight >= held * account.weight]
        victim = min([account for account in over if account.dead] or over, key=lambda account: account.rank)
        yield (victim.dead or victim.live).pop(0)
        victim.held -= 1


def merge(unkept: list[int], expired: list[int], used: dict[int, int]) -> list[int]:
    """Pages without a wish in order of use, and those whose wish passed, in its order: the head used longer ago first."""
    merged = []
    while unkept and expired:
        merged.append((unkept if used[unkept[0]] < used[expired[0]] else expired).pop(0))
    return merged + unkept + expired


class Watched(BlockManager):
    """Compares every eviction and every forgetting with the plain rule.

    Attributes:
        makers: whose an indexed page is, by the page's key.
        owners: by salt and label the one that was not forgotten.
        erased: those that were.
        time: as last observed.
        ends: the second in which the wish for an indexed page ends, by the page's key; 0: none.
        used: when an indexed page was released last, by its key.
    """

    def __init__(self, *, num_pages: int, page_size: int, model_id: str) -> None:
        super().__init__(num_pages=num_pages, page_size=page_size, model_id=model_id)
        self.time = 0.0
        self.ends: dict[bytes, int] = {}
        self.used: dict[bytes, int] = {}
        self.num_releases = 0
        self.makers: dict[bytes, Owner] = {}
        self.owners: dict[tuple[str, str], Owner] = {}
        self.erased: set[Owner] = set()

    def open(self, salt: str, *, weight: float = 1.0, label: str = "") -> BlockTable:
        table = super().open(salt, weight=weight, label=label)
        assert table.owner is self.owners.setdefault((salt, label), table.owner), "a label has two owners"
        return table

    def commit(self, table: BlockTable, token_ids: array[int], num_computed: int) -> None:
        self.drop_notes()
        super().commit(table, token_ids, num_computed)
        for node in table.path[1:]:
            assert self.makers.setdefault(node.key, table.owner) is node.owner, "a page is another's than its maker's"

    def forget(self, salt: str, label: str) -> Forgotten:
        erased = self.owners.pop((salt, label), None)
        if erased is not None:
            self.erased.add(erased)
        nodes = list(self._tree._index.values())
        mine = [node for node in nodes if self.makers[node.key] is erased]
        held = [node for node in mine if self._refs[node.page]]
        goes = {node for node in mine if not self._refs[node.page] and not self.is_needed(node)}
        forgotten = super().forget(salt, label)
        assert set(nodes) - set(self._tree._index.values()) == goes, "the wrong pages were forgotten"
        assert forgotten == Forgotten(dropped=len(goes), held=len(held))
        self.note_heirs(mine)
        return forgotten

    def is_needed(self, node: Node) -> bool:
        """Whether a page belongs to one that is not erased, or such a page continues it."""
        return self.makers[node.key] not in self.erased or any(self.is_needed(child) for child in node.children())

    def note_heirs(self, nodes: list[Node]) -> None:
        """Take note of whose the unheld ones of erased makers have become."""
        for node in nodes:
            if self.makers[node.key] in self.erased and node.key in self._tree._index and not self._refs[node.page]:
                assert node.owner in [child.owner for child in node.children()], "a page became a stranger's"
                self.makers[node.key] = node.owner

    def observe(self, now: float) -> None:
        super().observe(now)
        self.time = now

    def release(self, table: BlockTable, *, keep_until: float = 0.0) -> None:
        for node in reversed(table.path[1:]):
            self.num_releases += 1
            end = max(self.ends.get(node.key, 0), math.ceil(keep_until))
            self.ends[node.key], self.used[node.key] = end if end > self.time else 0, self.num_releases
        path = [node for node in table.path[1:] if self._tree.nodes[node.page] is node]
        super().release(table, keep_until=keep_until)
        for node in path:
            assert self.is_needed(node) == (node.key in self._tree._index) or self._refs[node.page], "kept, or lost"
        self.note_heirs(path)

    def cached(self) -> list[Node]:
        return [node for node in self._tree._index.values() if not self._refs[node.page]]

    def accounts(self) -> list[Account]:
        nodes = {page: node for salt, tenant in self._tenants.items() for page, node in self.nodes_of(tenant)}
        used = {page: self.used[node.key] for page, node in nodes.items()}
        accounts = []
        for salt, tenant in self._tenants.items():
            ends = {page: self.ends[node.key] for page, node in self.nodes_of(tenant)}
            order = sorted(ends, key=lambda page: (ends[page], used[page]))
            unkept = [page for page in order if not ends[page]]
            expired = [page for page in order if 0 < ends[page] <= self.time]
            live = [page for page in order if ends[page] > self.time]
            accounts.append(Account(salt, tenant.weight, tenant.held, merge(unkept, expired, used), live))
        return accounts

    def nodes_of(self, root: Node) -> list[tuple[int, Node]]:
        found = []
        for node in self.cached():
            above: Node | None = node
            while above is not None and above is not root:
                above = above.parent
            if above is root:
                found.append((node.page, node))
        return found

    def _evict(self, num_pages: int) -> None:
        before = {node.page for node in self.cached()}
        expected = set(evict_plainly(self.accounts(), num_pages))
        super()._evict(num_pages)
        assert before - {node.page for node in self.cached()} == expected, "the wrong pages were evicted"

    def drop_notes(self) -> None:
        """Drop the notes on pages that are not indexed any more."""
        self.ends = {key: end for key, end in self.ends.items() if key in self._tree._index}
        self.makers = {key: maker for key, maker in self.makers.items() if key in self._tree._index}


@dataclass
class Held:
    """A sequence with the pages it holds; the last ``uncomputed`` ids have no key and value yet."""

    salt: str
    table: BlockTable
    ids: array[int]
    uncomputed: int = 0

    @property
    def num_computed(self) -> int:
        return len(self.ids) - self.uncomputed


class CacheMachine(RuleBasedStateMachine):
    """Sequences of three tenants over a small pool; tokens are few, so that prefixes meet."""

    broken: type[BlockManager] = BlockManager

    @initialize(num_pages=st.sampled_from([6, 12, 24]))
    def start(self, num_pages: int) -> None:
        watched = type("WatchedManager", (Watched, self.broken), {})
        self.manager = watched(num_pages=num_pages, page_size=PAGE, model_id="m")
        self.sequences: list[Held] = []

    @rule(
        salt=st.sampled_from("abc"),
        weight=st.sampled_from([1.0, 1.0, 2.0, 0.5]),
        ids=st.lists(st.integers(0, 1), min_size=1, max_size=16),
        uncomputed=st.integers(0, 3),
        label=st.sampled_from("xy"),
    )
    def submit(self, salt: str, weight: float, ids: list[int], uncomputed: int, label: str) -> None:
        """Look a prompt up and compute the rest of it, or wait for room in vain."""
        table, token_ids = self.manager.open(salt, weight=weight, label=label), array("i", ids)
        found = self.manager.extend(table, token_ids)
        assert found <= (len(ids) - 1) // PAGE * PAGE
        if not self.manager.grow(table, len(ids)):
            self.manager.release(table)
        else:
            self.sequences.append(Held(salt, table, token_ids, min(uncomputed, len(ids) - found)))
            self.manager.commit(table, token_ids, self.sequences[-1].num_computed)
        self.check()

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), ids=st.lists(st.integers(0, 1), min_size=1, max_size=5))
    def decode(self, data: st.DataObject, ids: list[int]) -> None:
        seq = data.draw(st.sampled_from(self.sequences))
        if self.manager.grow(seq.table, len(seq.ids) + len(ids)):
            seq.ids.extend(ids)
            self.manager.commit(seq.table, seq.ids, seq.num_computed)
        self.check()

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        """Compute what was left, which others may have computed meanwhile."""
        self.compute_rest(data.draw(st.sampled_from(self.sequences)))

    def compute_rest(self, seq: Held) -> None:
        seq.uncomputed = 0
        self.manager.commit(seq.table, seq.ids, seq.num_computed)
        self.check()

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), keep_s=st.sampled_from([0.0, 0.0, 0.5, 3.0, 9.0]))
    def finish(self, data: st.DataObject, keep_s: float) -> None:
        table = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1))).table
        self.manager.release(table, keep_until=self.manager.time + keep_s if keep_s else 0.0)
        self.check()

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.manager.discard(self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1))).table)
        self.check()

    @rule(salt=st.sampled_from("abc"), label=st.sampled_from("xy"))
    def forget(self, salt: str, label: str) -> None:
        self.manager.forget(salt, label)
        self.check()

    @rule(seconds=st.sampled_from([0.4, 1.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.manager.observe(self.manager.time + seconds)
        self.check()

    @rule()
    def clear(self) -> None:
        self.manager.clear_cache()
        self.check()

    def check(self) -> None:
        self.manager.drop_notes()
        self.manager.debug_check([seq.table for seq in self.sequences])
        for seq in self.sequences:
            assert seq.table.num_indexed == seq.num_computed // PAGE, "what is computed and what is indexed differ"
        owners = {(page, seq.salt) for seq in self.sequences for page in seq.table.pages}
        assert len(owners) == len({page for page, _ in owners}), "two tenants share a page"
        accounts = self.manager.tenants().values()
        assert sum(account.active for account in accounts) == self.manager.num_active
        assert sum(account.cached for account in accounts) == self.manager.num_cached

    def teardown(self) -> None:
        for seq in getattr(self, "sequences", []):
            self.manager.release(seq.table)
        if hasattr(self, "manager"):
            self.manager.clear_cache()
            self.sequences.clear()
            self.check()
            assert self.manager.num_available == self.manager.num_pages - 1


def test_cache_survives_any_order_of_events() -> None:
    """Some thousand rules in short runs."""
    run_state_machine_as_test(CacheMachine, settings=FAST)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_cache_survives_many_orders_of_events() -> None:
    """Some hundred thousand rules in longer runs."""
    run_state_machine_as_test(CacheMachine, settings=LONG)


def drive(broken: type[BlockManager]) -> None:
    """A fixed busy workload by the machine's own rules."""
    for seed in range(6):
        drive_once(broken, seed)


def drive_once(broken: type[BlockManager], seed: int) -> None:
    rng = random.Random(seed)
    machine = type("DrivenMachine", (CacheMachine,), {"broken": broken})()
    machine.start(num_pages=14)
    for _ in range(150):
        act = rng.randrange(8)
        if act < 3:
            ids = [rng.randrange(2)] * rng.randrange(1, 9) + [rng.randrange(3)] * rng.randrange(1, 7)
            machine.submit(rng.choice("abc"), rng.choice([1.0, 2.0]), ids, rng.choice([0, 0, 6]), rng.choice("xy"))
        elif act < 5 and machine.sequences:
            table = machine.sequences.pop(rng.randrange(len(machine.sequences))).table
            machine.manager.release(table, keep_until=machine.manager.time + rng.choice([0.5, 5.0, 50.0]))
        elif act < 6 and machine.sequences:
            machine.compute_rest(rng.choice(machine.sequences))
        elif act < 7:
            machine.forget(rng.choice("abc"), rng.choice("xy"))
        else:
            machine.pass_time(1.0)
        machine.check()
    machine.teardown()


def test_workload_passes_with_the_real_block_manager() -> None:
    """The workload that must expose the broken ones is served without a fault by the real one."""
    drive(BlockManager)


@pytest.mark.parametrize("broken", [*BROKEN, IgnoresTheWish, ForgetsTheCacheOnly, LeavesErasedPages])
def test_broken_block_manager_is_noticed(broken: type[BlockManager]) -> None:
    """Each deliberate mistake is found."""
    with pytest.raises((AssertionError, KeyError, IndexError)):
        drive(broken)
