"""What every due index promises: the earliest time asked for counts, unless it is moved, and lookers share the work."""

from __future__ import annotations

from services.conversations.queueing import Ref
from tests.support.jobs import a_turn
from tests.support.turns import TENANT

DUE_S = -1.0


async def test_a_turn_is_found_when_its_time_has_come(due):
    """Not before."""
    now, later = a_turn(), a_turn()
    await due.add(TENANT, now, in_s=DUE_S)
    await due.add(TENANT, later, in_s=60)
    assert list(await due.look()) == [Ref(TENANT, now)]


async def test_adding_moves_a_turn_to_an_earlier_time_only(due):
    """The time that was asked for first may not be lost to a writer who knows less."""
    turn = a_turn()
    await due.add(TENANT, turn, in_s=60)
    await due.add(TENANT, turn, in_s=DUE_S)
    await due.add(TENANT, turn, in_s=60)
    assert list(await due.look()) == [Ref(TENANT, turn)]


async def test_moving_sets_the_time_either_way(due):
    """An earlier one, as a later one."""
    turn = a_turn()
    await due.add(TENANT, turn, in_s=DUE_S)
    await due.move(TENANT, turn, in_s=60)
    assert list(await due.look()) == []
    await due.move(TENANT, turn, in_s=DUE_S)
    assert list(await due.look()) == [Ref(TENANT, turn)]


async def test_a_removed_turn_is_not_found(due):
    """Removing it again changes nothing, nor does moving it: its end may come before a late writer."""
    turn = a_turn()
    await due.add(TENANT, turn, in_s=DUE_S)
    await due.remove(TENANT, turn)
    await due.remove(TENANT, turn)
    await due.move(TENANT, turn, in_s=DUE_S)
    assert list(await due.look()) == []


async def test_what_one_looker_has_found_is_hidden_for_a_while(due):
    """Then it is found again, for the looker may have died."""
    turn = a_turn()
    await due.add(TENANT, turn, in_s=DUE_S)
    assert list(await due.look(hide_s=0)) == [Ref(TENANT, turn)]
    assert list(await due.look(hide_s=60)) == [Ref(TENANT, turn)]
    assert list(await due.look()) == []


async def test_a_look_is_bounded_and_misses_nothing(due):
    """Looking on finds all of them, once each."""
    turns = {a_turn() for _ in range(100)}
    for turn in turns:
        await due.add(TENANT, turn, in_s=DUE_S)
    found = []
    while refs := await due.look(limit=16, hide_s=60):
        assert len(refs) <= 16
        found += [ref.turn for ref in refs]
    assert sorted(found) == sorted(turns)
