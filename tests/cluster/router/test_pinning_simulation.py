"""The pinning policy over the life of a fleet: who moves when replicas come and go, and who does not."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pinning_simulation import Conversation, Fleet, Simulation

CONVERSATIONS = 200
few = settings(max_examples=30)  # an example is hundreds of decisions


def simulation(size: int, *, follows_hints: bool = True, conversations: int = CONVERSATIONS) -> Simulation:
    """A fleet on which every conversation has had its first turn."""
    made = Simulation(
        Fleet(size), (Conversation(f"key-{i}") for i in range(conversations)), follows_hints=follows_hints
    )
    made.round()
    return made


LOSSES = st.lists(st.tuples(st.sampled_from(("lose", "fill", "drain", "settle", "resize")), st.integers(0, 99)))


@few
@given(st.integers(2, 8), LOSSES)
def test_whoever_follows_a_hint_moves_only_when_its_replica_is_gone(size: int, events: list[tuple[str, int]]) -> None:
    """And then once: whatever happens to the rest of the fleet, nobody else moves and nobody goes back."""
    running = simulation(size, conversations=40)
    for event, number in events:
        happen(running.fleet, event, number)
        tally = running.round()
        assert tally.bystanders == tally.returns == 0
        assert tally.moved == tally.victims
        assert running.round().reasons == {"pinned": tally.turns}


def happen(fleet: Fleet, event: str, number: int) -> None:
    """Something happens to the fleet; the last replica stays."""
    match event:
        case "fill":
            fleet.fill()
        case "settle":
            fleet.settle()
        case "resize":
            fleet.resize(1 + number % 10)
        case _ if len(fleet.ranks) > 1:
            victim = list(fleet.ranks)[number % len(fleet.ranks)]
            fleet.lose(victim) if event == "lose" else fleet.drain(victim)


@few
@given(st.integers(2, 12), st.integers(0, 99))
def test_without_a_hint_a_death_moves_its_own_conversations_away_and_back(size: int, number: int) -> None:
    """Stateless chats remember nothing: the replacement, on the same rank, has them again, and nobody else moves."""
    running = simulation(size, follows_hints=False)
    victim = list(running.fleet.ranks)[number % size]
    running.fleet.lose(victim)
    lost = running.round()
    assert lost.bystanders == 0
    running.fleet.fill()
    assert running.round().moved == lost.moved
    assert running.round().moved == 0


@few
@given(st.integers(2, 12), st.integers(1, 4), st.booleans())
def test_an_update_with_surge_moves_every_conversation_once(size: int, batch: int, hinted: bool) -> None:  # noqa: FBT001 - drawn
    """With or without a hint: the replacement has its predecessor's place from the beginning."""
    running = simulation(size, follows_hints=hinted)
    old = list(running.fleet.ranks)
    for begin in range(0, size, batch):
        for name in old[begin : begin + batch]:
            running.fleet.start()
            running.fleet.drain(name)
        running.round()
        running.fleet.settle()
        assert running.round().moved == 0
    assert {conversation.moves for conversation in running.conversations} == {1}


@few
@given(st.integers(1, 12), st.integers(1, 12))
def test_scaling_up_moves_nobody_who_follows_a_hint(before: int, more: int) -> None:
    """New replicas fill with new conversations."""
    running = simulation(before)
    running.fleet.resize(before + more)
    assert running.round().moved == 0
    running.conversations += [Conversation(f"new-{i}") for i in range(CONVERSATIONS)]
    assert set(running.round().shares) == set(running.fleet.ranks)


@few
@given(st.integers(1, 6), st.integers(1, 8), st.floats(0.1, 1.5), st.randoms(use_true_random=False))
def test_no_turn_waits_while_a_replica_has_room(size: int, capacity: int, occupancy: float, rng: random.Random) -> None:
    """A full replica is passed over, and only then: a turn that finds its replica with room stays."""
    running = Simulation(Fleet(size, capacity), (Conversation(f"key-{i}") for i in range(50)))
    tally = running.busy(100, occupancy, rng)
    assert tally.misplaced == tally.reasons["moved"] == 0


def test_half_a_fleet_in_use_pins_nearly_every_turn() -> None:
    """Eight replicas of 32 places, half of them taken: less than one turn in a hundred is passed on."""
    running = Simulation(Fleet(8, 32), (Conversation(f"key-{i}") for i in range(2000)))
    tally = running.busy(10_000, 0.5, random.Random(1))
    assert tally.reasons["spilled"] < tally.turns / 100
    assert tally.overfull == 0


def test_conversations_spread_over_64_ranks_as_by_chance() -> None:
    """Chi-squared over 63 degrees of freedom, mean 63 and deviation 11: the hash prefers no rank."""
    running = simulation(64, conversations=6400)
    shares = running.round().shares.values()
    chi_squared = sum((share - 100) ** 2 for share in shares) / 100
    assert 30 < chi_squared < 110
