"""Which tenants have figures of their own, and that nothing that was counted is lost or counted twice."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.tenant_use import MARGIN, OTHER, REMEMBERED, Counts, TenantLedger


def figures(counts: Counts) -> tuple[int, int, int]:
    return counts.hits, counts.misses, counts.evicted


def total(ledger: TenantLedger) -> tuple[int, int, int]:
    everybody = Counts()
    for counts in (ledger.rest, *ledger.named.values()):
        everybody.add(counts)
    return figures(everybody)


def test_first_comers_have_figures_of_their_own() -> None:
    """While there are free places; everybody else is counted together."""
    ledger = TenantLedger(2)
    for salt in "abcd":
        ledger.note_lookup(salt, hits=1, misses=2)
        ledger.note_evicted(salt, 5)
    assert {salt: figures(counts) for salt, counts in ledger.named.items()} == {"a": (1, 2, 5), "b": (1, 2, 5)}
    assert figures(ledger.rest) == (2, 4, 10)


def test_heavier_tenant_takes_the_place_of_the_lightest() -> None:
    """What the one that goes had counted moves to the rest; the newcomer counts from nothing."""
    ledger = TenantLedger(2)
    ledger.note_lookup("light", hits=0, misses=8)
    ledger.note_lookup("heavy", hits=0, misses=80)
    ledger.note_lookup("late", hits=0, misses=10)
    assert "late" not in ledger.named
    ledger.note_lookup("late", hits=1, misses=0)
    assert {salt: figures(counts) for salt, counts in ledger.named.items()} == {"heavy": (0, 80, 0), "late": (1, 0, 0)}
    assert figures(ledger.rest) == (0, 18, 0)


def test_equal_tenants_do_not_take_turns() -> None:
    """Two that use as much as each other change places a few times at most, not with every request."""
    ledger, holders = TenantLedger(1), []
    for i in range(2000):
        ledger.note_lookup("ab"[i % 2], hits=3, misses=1)
        holders.append(*ledger.named)
    assert sum(before != after for before, after in pairwise(holders)) <= 1


def test_nobody_is_named_other_but_the_rest() -> None:
    """A tenant of that very name is counted with the rest."""
    ledger = TenantLedger(5)
    ledger.note_lookup(OTHER, hits=2, misses=1)
    ledger.note_evicted(OTHER, 3)
    assert (ledger.named, figures(ledger.rest)) == ({}, (2, 1, 3))


def test_without_places_everybody_is_counted_together() -> None:
    """Zero named tenants are allowed."""
    ledger = TenantLedger(0)
    ledger.note_lookup("a", hits=2, misses=1)
    assert (ledger.named, figures(ledger.rest)) == ({}, (2, 1, 0))


def test_memory_does_not_follow_the_number_of_tenants() -> None:
    """Any number may come; of those without a place a bounded number is remembered."""
    ledger = TenantLedger(3)
    for i in range(REMEMBERED + 100):
        ledger.note_lookup(f"t{i}", hits=0, misses=1)
    assert len(ledger.named) == 3
    assert len(ledger._unnamed) == REMEMBERED


events = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)))


@given(events, st.integers(0, 4))
def test_nothing_is_lost_and_no_count_falls(happened: list[tuple[str, int, int, int]], places: int) -> None:
    """All figures add up to what was noted; those of a tenant that stays, and of the rest, never fall."""
    ledger, noted, before = TenantLedger(places), (0, 0, 0), {}
    looked_up: Counter[str] = Counter()
    for salt, hits, misses, evicted in happened:
        ledger.note_lookup(salt, hits=hits, misses=misses)
        ledger.note_evicted(salt, evicted)
        noted = noted[0] + hits, noted[1] + misses, noted[2] + evicted
        looked_up[salt] += hits + misses
        now = {counts: figures(counts) for counts in (ledger.rest, *ledger.named.values())}
        assert all(now[counts] >= old for counts, old in before.items() if counts in now)
        assert total(ledger) == noted
        assert len(ledger.named) <= places
        before = now
    if len(ledger.named) == places > 0:
        least = min(looked_up[salt] for salt in ledger.named)
        assert all(looked_up[salt] <= MARGIN * least for salt in looked_up if salt not in ledger.named)
