"""The number of replicas that a load asks for: bounded, monotone, and still where the load is."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.scaling.policy import Load, Scaler, wanted

CAPACITY = 64.0


def load(turns: float, *, waiting_tokens: float = 0.0, prefill_rate: float = 1000.0) -> Load:
    running = min(turns, CAPACITY)
    return Load(running, turns - running, waiting_tokens, CAPACITY, prefill_rate)


def spread(turns: float, wait_s: float, number: int) -> list[Load]:
    """A load divided evenly among replicas; ``wait_s`` in all."""
    return [load(turns / number, waiting_tokens=1000.0 * wait_s / number)] * number


LOADS = st.builds(
    Load,
    running=st.floats(0, 64),
    waiting=st.floats(0, 256),
    waiting_tokens=st.floats(0, 1e6),
    capacity=st.sampled_from([1.0, 8.0, 64.0]),
    prefill_rate=st.floats(0, 1e5),
)
BOUNDS = st.tuples(st.integers(1, 8), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(loads=st.lists(LOADS, max_size=16), current=st.integers(0, 20), bounds=BOUNDS)
@example(loads=[Load(0, 0, 2, 1, 1e-308)], current=0, bounds=(2, 2))
def test_number_is_within_its_bounds(loads: list[Load], current: int, bounds: tuple[int, int]) -> None:
    """Whatever is reported, the number is allowed, and falls by at most one."""
    least, most = bounds
    number = wanted(loads, current=current, least=least, most=most)
    assert least <= number <= most
    assert number >= min(max(current, least), most) - 1


@given(
    turns=st.floats(0, 2000),
    more_turns=st.floats(0, 500),
    wait_s=st.floats(0, 200),
    more_wait_s=st.floats(0, 100),
    current=st.integers(1, 16),
)
def test_more_load_never_asks_for_fewer(
    turns: float, more_turns: float, wait_s: float, more_wait_s: float, current: int
) -> None:
    """The number is monotone in turns and in waiting prompts."""
    before = wanted(spread(turns, wait_s, current), current=current, least=1, most=16)
    after = wanted(spread(turns + more_turns, wait_s + more_wait_s, current), current=current, least=1, most=16)
    assert after >= before


@given(turns=st.floats(0, 2000), wait_s=st.floats(0, 100), current=st.integers(1, 32))
def test_constant_load_finds_its_number_and_stays(turns: float, wait_s: float, current: int) -> None:
    """From anywhere the number moves in one direction until it rests."""
    numbers = [current]
    for _ in range(64):
        number = numbers[-1]
        numbers.append(wanted(spread(turns, wait_s, number), current=number, least=1, most=32))
    assert numbers[-1] == numbers[-2]
    assert numbers in (sorted(numbers), sorted(numbers, reverse=True))


@given(turns=st.floats(0, 2000), wait_s=st.floats(0, 100), current=st.integers(1, 32))
def test_number_found_bears_the_load(turns: float, wait_s: float, current: int) -> None:
    """Where it rests, neither places nor time for prompts are short, unless no more are allowed."""
    for _ in range(64):
        current = wanted(spread(turns, wait_s, current), current=current, least=1, most=32)
    assert current == 32 or (turns <= 0.85 * 64 * current and wait_s <= 5 * current)


@given(turns=st.floats(1, 1500), wait_s=st.floats(0, 70), current=st.integers(2, 16))
def test_what_is_left_holds_the_load_with_head_room(turns: float, wait_s: float, current: int) -> None:
    """One goes only where the others would then be at most six tenths full and hardly behind."""
    number = wanted(spread(turns, wait_s, current), current=current, least=1, most=16)
    if number < current:
        assert turns <= 0.6 * 64 * number
        assert wait_s <= 2.5 * number


def test_full_batch_asks_for_another() -> None:
    """55 of 64 places are too many for one replica."""
    assert wanted([load(54)], current=1, least=1, most=4) == 1
    assert wanted([load(55)], current=1, least=1, most=4) == 2


def test_rush_doubles_at_once() -> None:
    """A queue of hundreds does not wait for one replica after the other, nor does it start all at once."""
    assert wanted([load(500)] * 2, current=2, least=1, most=16) == 4


def test_prompts_that_queue_ask_for_another_before_the_batch_is_full() -> None:
    """Long prompts fill the time of a replica that has places left."""
    assert wanted([load(8, waiting_tokens=4_900)], current=1, least=1, most=4) == 1
    assert wanted([load(8, waiting_tokens=5_100)], current=1, least=1, most=4) == 2


def test_unknown_rate_counts_no_prompts() -> None:
    """Before a rate was measured, tokens say nothing of time."""
    assert wanted([load(8, waiting_tokens=1e6, prefill_rate=0.0)], current=1, least=1, most=4) == 1


def test_replicas_that_are_starting_are_waited_for() -> None:
    """While one of two loads its model, prompts that queue at the first ask for no third."""
    assert wanted([load(8, waiting_tokens=20_000)], current=2, least=1, most=4) == 2


def test_replica_that_cannot_start_is_given_up_when_the_load_has_gone() -> None:
    """A third that finds no GPU is not asked for any longer than the load asks."""
    assert wanted([load(50)] * 2, current=3, least=1, most=4) == 3
    assert wanted([load(20)] * 2, current=3, least=1, most=4) == 2


def test_nothing_reported_changes_nothing() -> None:
    """After a restart of the controller the number stays until replicas have reported; new bounds hold at once."""
    assert wanted([], current=3, least=1, most=4) == 3
    assert wanted([], current=3, least=1, most=2) == 2


class Replicas:
    """Replicas that can compute ``rate`` tokens a second however many turns share them, as a CPU does.

    Turns are in balance (processor sharing, M/G/1) below full use, and pile up above it.
    """

    def __init__(self, offered: float) -> None:
        self.offered = offered  # in replicas' worth of work
        self.piled_up = 0.0

    def turns(self, number: int) -> float:
        use = self.offered / number
        if use < 1:
            self.piled_up = 0.0
            return number * use / (1 - use)
        self.piled_up += (use - 1) * 20
        return number * 20 + self.piled_up


@pytest.mark.parametrize("offered", [0.5, 1.1, 1.8, 2.5, 3.3])
def test_number_that_proved_too_small_is_not_tried_again(offered: float) -> None:
    """Where places say nothing of what a replica can compute, it goes down and up again once at most, and rests."""
    replicas, scaler, number = Replicas(offered), Scaler(), 4
    numbers = []
    for _ in range(400):
        number = scaler.wanted(spread(replicas.turns(number), 0.0, number), current=number, least=1, most=8)
        numbers.append(number)
    changes = sum(a != b for a, b in pairwise(numbers))
    assert len(set(numbers[-200:])) == 1
    assert changes <= 8
    assert numbers[-1] > offered


def test_number_that_proved_too_small_is_tried_when_the_load_has_gone() -> None:
    """A quiet night brings the number down again."""
    scaler, number = Scaler(), 2
    for turns, expected in ((30.0, 1), (90.0, 2), (30.0, 2), (15.0, 1)):
        number = scaler.wanted(spread(turns, 0.0, number), current=number, least=1, most=4)
        assert number == expected


def test_memory_starts_with_the_first_fall() -> None:
    """Growing from the start is no failure: the first fall is always tried."""
    scaler, number = Scaler(), 1
    numbers = []
    for turns in (90.0, 90.0, 30.0):
        number = scaler.wanted(spread(turns, 0.0, number), current=number, least=1, most=4)
        numbers.append(number)
    assert numbers == [2, 2, 1]
    assert math.isfinite(scaler._turns)
