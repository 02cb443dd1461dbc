"""Virtual token counters, apart from any engine: who goes next when everybody wants more."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.fairness import REMEMBERED, Account, Accounts

BUDGET = 64
weights = st.sampled_from([0.5, 1.0, 2.0, 4.0])
costs = st.integers(1, BUDGET)


def least(accounts: list[Account]) -> Account:
    return min(accounts, key=lambda account: (account.count, account.tenant))


@given(weights=st.lists(weights, min_size=2, max_size=6), costs=st.lists(costs, min_size=1, max_size=200))
def test_backlogged_tenants_stay_within_one_budget(weights: list[float], costs: list[int]) -> None:
    """Serving the least count first, no two counts part by more than one budget over the smaller weight."""
    accounts = Accounts()
    backlogged = [accounts.enter(f"t{i}", weight) for i, weight in enumerate(weights)]
    for cost in costs:
        least(backlogged).charge(cost)
        counts = [account.count for account in backlogged]
        assert max(counts) - min(counts) <= BUDGET / min(weights)


@given(costs=st.lists(costs, min_size=50, max_size=300))
def test_weights_two_to_one_are_served_two_to_one(costs: list[int]) -> None:
    """What the heavier tenant got is twice what the lighter one got, within one budget on the virtual clock."""
    accounts = Accounts()
    pair = [accounts.enter("heavy", 2.0), accounts.enter("light", 1.0)]
    served: Counter[str] = Counter()
    for cost in costs:
        account = least(pair)
        account.charge(cost)
        served[account.tenant] += cost
    assert abs(served["heavy"] / 2 - served["light"]) <= BUDGET


@given(weights=st.lists(weights, min_size=2, max_size=6), costs=st.lists(costs, min_size=1, max_size=300))
def test_nobody_starves(weights: list[float], costs: list[int]) -> None:
    """Between two turns of a tenant the others get no more than their weights allow, and one budget each."""
    accounts = Accounts()
    backlogged = [accounts.enter(f"t{i}", weight) for i, weight in enumerate(weights)]
    since: dict[str, float] = dict.fromkeys((account.tenant for account in backlogged), 0.0)
    for cost in costs:
        served = least(backlogged)
        served.charge(cost)
        since = {tenant: total + cost for tenant, total in since.items()}
        since[served.tenant] = 0.0
        lightest = min(weights)
        assert max(since.values()) <= (sum(weights) / lightest) * 2 * BUDGET


class _Model:
    """Tenants that come and go, with every rule written out plainly."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.open: dict[str, list[Account]] = {}

    def floor(self) -> float:
        return min(account.count for held in self.open.values() for account in held)


events = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["enter", "leave", "charge"]), costs, weights))


@settings(max_examples=200)
@given(events)
def test_idleness_earns_no_credit_and_leaving_cancels_no_debt(happened: list[tuple[str, str, int, float]]) -> None:
    """A newcomer starts at the least count of those that are there, or at its own if that is more; the floor never falls."""
    model, accounts, paid = _Model(), Accounts(), dict.fromkeys("abcd", 0.0)
    floor = 0.0
    for tenant, what, cost, weight in happened:
        held = model.open.setdefault(tenant, [])
        if what == "enter":
            before = max([floor, model.floor()]) if any(model.open.values()) else floor
            is_new = not held
            held.append(accounts.enter(tenant, weight))
            if is_new:
                assert held[0].count == max(before, paid[tenant])
        elif held and what == "leave":
            account = held.pop()
            paid[tenant] = account.count
            accounts.leave(account)
        elif held:
            held[0].charge(cost)
        assert accounts.floor >= floor
        floor = accounts.floor
        present = {name: (len(them), 0) for name, them in model.open.items() if them}
        accounts.debug_check(present)


@given(st.dictionaries(st.sampled_from("abcdef"), weights, min_size=1))
def test_shares_add_up_to_one(tenants: dict[str, float]) -> None:
    """Shares follow weights; one who is not there yet is told what it would have."""
    accounts = Accounts()
    entered = [accounts.enter(tenant, weight) for tenant, weight in tenants.items()]
    assert abs(sum(accounts.share(account) for account in entered) - 1) < 1e-9
    total = sum(tenants.values())
    assert abs(accounts.share_of("new", 2.0) - 2.0 / (total + 2.0)) < 1e-9


def test_latest_weight_holds() -> None:
    """A tenant's weight is that of its latest request, for all its sequences."""
    accounts = Accounts()
    accounts.enter("b", 1.0)
    accounts.enter("a", 1.0)
    account = accounts.enter("a", 3.0)
    assert accounts.share(account) == 0.75


def test_memory_is_bounded() -> None:
    """Any number of tenants may come, work and leave."""
    accounts = Accounts()
    accounts.enter("stays", 1.0)
    for i in range(REMEMBERED + 100):
        account = accounts.enter(f"t{i}", 1.0)
        account.charge(5)
        accounts.leave(account)
    accounts.debug_check({"stays": (1, 0)})
    assert accounts.enter("t0", 1.0).count == 0.0
    assert accounts.enter(f"t{REMEMBERED + 99}", 1.0).count == 5.0
