"""The pinning policy: who is asked first, and why."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.router.pinning import Candidate, Wish, folded, order, preferred, published_load, reason


def replicas(number: int, **loads: int) -> list[Candidate]:
    """Replicas r0, r1, … with the given loads and a capacity of 8."""
    return [Candidate(f"r{rank}", rank, loads.get(f"r{rank}", 0), 8) for rank in range(number)]


def test_the_hint_comes_first_while_it_lives() -> None:
    """A conversation follows its KV, whatever the hash says."""
    assert order(replicas(5), Wish("key", hint="r3"))[0].incarnation == "r3"


def test_a_full_replica_is_passed_over_in_rendezvous_order() -> None:
    """The second choice of the same hash takes the turn."""
    first, second = (c.incarnation for c in order(replicas(5), Wish("key"))[:2])
    assert order(replicas(5, **{first: 8}), Wish("key"))[0].incarnation == second


def test_load_below_capacity_never_moves_a_conversation() -> None:
    """Load relative to the others does not matter."""
    first = first_of(replicas(5), Wish("key"))
    assert order(replicas(5, **{first: 7}), Wish("key"))[0].incarnation == first


def test_an_avoided_replica_is_the_last_resort() -> None:
    """It still serves when nobody else is there."""
    wish = Wish("key", hint="r1", avoid=("r1",))
    assert order(replicas(3), wish)[-1].incarnation == "r1"
    assert [c.incarnation for c in order(replicas(2)[1:], wish)] == ["r1"]


def test_turns_without_a_key_go_where_least_runs() -> None:
    """Nothing is cached for them anywhere."""
    assert order(replicas(3, r0=2, r1=1, r2=3), Wish(""))[0].incarnation == "r1"


def test_a_replacement_with_the_same_rank_keeps_the_conversations() -> None:
    """The hash is over ranks, not over incarnations."""
    before, after = replicas(4), [*replicas(4)[:3], Candidate("new", 3, 0, 8)]
    for key in map(str, range(200)):
        was, now = first_of(before, Wish(key)), first_of(after, Wish(key))
        assert now == ("new" if was == "r3" else was)


@given(st.integers(2, 16), st.integers(0, 15), st.lists(st.text(min_size=1), min_size=1, max_size=20))
def test_removing_a_replica_moves_only_its_own_conversations(number: int, victim: int, keys: list[str]) -> None:
    """Everybody else stays where they were."""
    gone = f"r{victim % number}"
    rest = [c for c in replicas(number) if c.incarnation != gone]
    for key in keys:
        was = first_of(replicas(number), Wish(key))
        assert was == gone or first_of(rest, Wish(key)) == was


def test_conversations_spread_evenly() -> None:
    """8,000 keys over 8 ranks: none holds a fifth more or less than its share."""
    share = Counter(first_of(replicas(8), Wish(str(key))) for key in range(8000))
    assert max(share.values()) < 1200
    assert min(share.values()) > 800


def test_reasons_say_what_happened() -> None:
    """Kept, passed over for load, or moved because the holder is gone or out of reach."""
    hinted = Wish("key", hint="r1")
    assert reason(hinted, first="r1", is_first_full=False, chosen="r1") == "pinned"
    assert reason(hinted, first="r1", is_first_full=True, chosen="r2") == "spilled"
    assert reason(hinted, first="r1", is_first_full=False, chosen="r2") == "moved"
    assert reason(hinted, first="r2", is_first_full=False, chosen="r2") == "moved"
    assert reason(Wish("key"), first="r0", is_first_full=False, chosen="r0") == "pinned"
    assert reason(Wish("key"), first="r0", is_first_full=True, chosen="r2") == "spilled"
    assert reason(Wish("key"), first="r0", is_first_full=False, chosen="r2") == "moved"
    assert reason(Wish("key", avoid=("r0",)), first="r1", is_first_full=False, chosen="r1") == "moved"
    assert reason(Wish(""), first="r0", is_first_full=False, chosen="r2") == "placed"


def first_of(candidates: list[Candidate], wish: Wish) -> str:
    """Who comes first when load is ignored."""
    first = preferred(candidates, wish)
    assert first is not None
    return first.incarnation


def test_published_load_says_full_only_when_it_is() -> None:
    """One turn in a small batch must not send the next one away."""
    assert [published_load(load, 8) for load in (0, 1, 7, 8, 9)] == [0, 1, 7, 8, 9]
    assert [published_load(load, 64) for load in (1, 7, 63, 64, 70)] == [0, 0, 56, 64, 64]
    assert published_load(3, 4) == 3


def test_a_suspect_is_passed_over_by_every_turn() -> None:
    """Also by the conversation whose KV it holds."""
    wish = Wish("key", hint="r1", suspects=("r1",))
    assert order(replicas(3), wish)[-1].incarnation == "r1"
    assert first_of(replicas(3), wish) != "r1"


def test_at_most_half_of_the_replicas_are_suspected() -> None:
    """A process that hears of nobody is cut off itself; the latest suspicion counts first."""
    wish = Wish("key", suspects=("r2", "r0", "r1", "gone"))
    assert [c.incarnation for c in order(replicas(3), wish)][-1] == "r2"
    assert {c.incarnation for c in order(replicas(4), wish)[-2:]} == {"r2", "r0"}
    assert order(replicas(1), Wish("key", suspects=("r0",)))[0].incarnation == "r0"


@pytest.mark.parametrize("suspects", [("r1",), ("r1", "r0")])
def test_a_turn_that_has_lost_every_replica_asks_the_latest_suspect_last(suspects: tuple[str, ...]) -> None:
    """One that was lost by a false alarm may be back; one that is frozen would cost the same wait again."""
    for key in ("one", "another", "a third"):
        wish = Wish(key, avoid=("r0", "r1"), suspects=suspects)
        assert [c.incarnation for c in order(replicas(2), wish)] == ["r0", "r1"]


def test_a_replacement_beside_its_draining_predecessor_takes_its_place() -> None:
    """Rank 3 of three replicas becomes the missing rank 1, so nobody else moves."""
    assert folded({"a": 0, "c": 2, "new": 3}, 3) == {"a": 0, "c": 2, "new": 1}


def test_ranks_stay_where_the_size_is_unknown_or_holes_are_missing() -> None:
    """With autoscaling there is no fixed number; two replicas may claim one rank for a second."""
    assert folded({"a": 0, "b": 4}, 0) == {"a": 0, "b": 4}
    assert folded({"a": 0, "b": 1, "c": 1, "d": 2}, 2) == {"a": 0, "b": 1, "c": 1, "d": 2}


@given(st.sets(st.integers(0, 20), min_size=1, max_size=10), st.integers(1, 12))
def test_folding_moves_no_rank_within_the_size(ranks: set[int], size: int) -> None:
    """And never gives one rank twice where Serve did not."""
    now = folded({f"r{rank}": rank for rank in ranks}, size)
    assert all(now[f"r{rank}"] == rank for rank in ranks if rank < size)
    assert len(set(now.values())) == len(ranks)
