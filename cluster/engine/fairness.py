"""Virtual token counters: what each tenant has had of the engine, over its weight.

Among tenants that want more than there is, the one with the least count goes first (VTC: Sheng et al., "Fairness in
Serving Large Language Models", OSDI 2024). A tenant is backlogged while it has a sequence in the queue or in the batch.
Whoever becomes backlogged starts at the least count of those that are: idleness earns no credit. Nor does leaving for a
moment cancel a debt: counts above that floor are remembered, for a bounded number of tenants.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from cluster.engine.growing_heap import GrowingHeap

COMPUTED, CACHED, OUTPUT = 1.0, 0.1, 2.0  # cost of a computed and of a cached prompt token, and of a drawn one
REMEMBERED = 4096  # tenants whose count is kept after their last sequence


@dataclass(slots=True, eq=False)
class Account:
    """A backlogged tenant.

    Attributes:
        weight: its part, among tenants that want more than theirs.
        count: cost so far over weight; only the difference between tenants means anything.
        num_sequences: in queue and batch.
        num_running: in the batch.
    """

    tenant: str
    weight: float
    count: float
    num_sequences: int = 0
    num_running: int = 0

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue."""
        return self.num_sequences - self.num_running

    def charge(self, cost: float) -> None:
        """Count ``cost`` tokens; see ``COMPUTED``, ``CACHED`` and ``OUTPUT``."""
        self.count += cost / self.weight


class Accounts:
    """The backlogged tenants. Memory follows their number, and ``REMEMBERED``."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._least: GrowingHeap[Account] = GrowingHeap(lambda account: (account.count,))
        self._left: OrderedDict[str, float] = OrderedDict()  # counts of tenants that left, longest gone first
        self._floor = 0.0
        self._total_weight = 0.0

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, tenant: str) -> Account | None:
        """The tenant's account while it is backlogged."""
        return self._accounts.get(tenant)

    @property
    def floor(self) -> float:
        """The count at which a newcomer starts. Never falls."""
        least = self._least.peek()
        if least is not None:
            self._floor = max(self._floor, least.count)
        return self._floor

    def enter(self, tenant: str, weight: float) -> Account:
        """Count one more sequence of ``tenant``; its latest ``weight`` holds for all of them."""
        account = self._accounts.get(tenant)
        if account is None:
            count = max(self.floor, self._left.pop(tenant, 0.0))
            account = self._accounts[tenant] = Account(tenant, weight, count)
            self._total_weight += weight
            self._least.push(account)
        self._total_weight += weight - account.weight
        account.weight = weight
        account.num_sequences += 1
        return account

    def leave(self, account: Account) -> None:
        """Count one sequence less."""
        account.num_sequences -= 1
        if account.num_sequences:
            return
        del self._accounts[account.tenant]
        self._least.remove(account)
        if not self._accounts:
            self._floor = max(self._floor, account.count)
        # Sums of floats drift; an empty engine starts from zero again.
        self._total_weight = self._total_weight - account.weight if self._accounts else 0.0
        self._remember(account)

    def recount(self, account: Account) -> None:
        """Take note that a charge was taken back."""
        self._least.push(account)

    def share(self, account: Account) -> float:
        """The fraction of the engine that is the tenant's while all that are backlogged want more."""
        return self.share_of(account.tenant, account.weight)

    def share_of(self, tenant: str, weight: float) -> float:
        """The share that ``tenant`` has, or would have on becoming backlogged with ``weight``."""
        account = self._accounts.get(tenant)
        others = self._total_weight - (account.weight if account is not None else 0.0)
        return weight / (max(others, 0.0) + weight)

    def _remember(self, account: Account) -> None:
        if account.count <= self.floor:
            return  # it would start at the floor anyway
        self._left[account.tenant] = account.count
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)

    def debug_check(self, present: dict[str, tuple[int, int]]) -> None:
        """Assert that counts match ``present``: per tenant its sequences, and how many of them run; for tests."""
        seen = {tenant: (each.num_sequences, each.num_running) for tenant, each in self._accounts.items()}
        assert seen == present, "an account counts sequences that are not there"
        weight = sum(account.weight for account in self._accounts.values())
        assert abs(weight - self._total_weight) <= 1e-6 * weight, "the weights do not add up"
        assert len(self._least) == len(self._accounts), "a tenant is missing from the heap"
        counts = [account.count for account in self._accounts.values()]
        assert not counts or self.floor == min(counts), "a tenant has saved up credit"
        assert len(self._left) <= REMEMBERED, "too many tenants are remembered"
