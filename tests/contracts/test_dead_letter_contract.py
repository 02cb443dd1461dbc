"""What every queue promises of jobs given up: they tell why, are read in pages, and become new jobs when replayed."""

from __future__ import annotations

from services.conversations.queueing import Ref
from services.queue.base import Dead, Retry
from tests.support.jobs import a_turn, drain, fill, turns_of
from tests.support.turns import TENANT

NOW = Retry(0.0)


async def test_a_dead_letter_tells_why(queue):
    """Tenant, turn, reason, attempts and time; it is not taken again."""
    turn = a_turn()
    await queue.publish(TENANT, turn)
    await queue.settle(await queue.take("c"), NOW)
    await queue.promote_due()
    await queue.settle(await queue.take("c"), Dead("four owners were lost"))
    (letter,) = await queue.dead()
    assert (letter.ref, letter.reason, letter.attempts) == (Ref(TENANT, turn), "four owners were lost", 2)
    assert letter.died_ms > 1_700_000_000_000
    assert await queue.reclaim("c", idle_s=0) == []
    assert await queue.take("c") is None


async def test_dead_letters_are_paged_by_tenant(queue):
    """Oldest first, and behind the last one seen even when that one is gone."""
    turns = await fill(queue, {"a": 4, "b": 4})
    await drain(queue, settle=lambda _: Dead("no"))
    assert sorted(letter.ref.turn for letter in await queue.dead()) == sorted(turns["a"] + turns["b"])
    first = await queue.dead(tenant="a", limit=2)
    rest = await queue.dead(tenant="a", after=first[-1])
    assert {letter.ref.turn for letter in [*first, *rest]} == set(turns["a"])
    assert len(first) == len(rest) == 2
    await queue.replay([first[-1].ref])
    assert [letter.ref for letter in await queue.dead(tenant="a", after=first[-1])][-2:] == [each.ref for each in rest]


async def test_a_replayed_letter_is_a_new_job(queue):
    """Its attempts begin anew, once; an unknown one is not counted."""
    turn = a_turn()
    await queue.publish(TENANT, turn)
    await queue.settle(await queue.take("c"), Dead("no"))
    refs = [Ref(TENANT, turn), Ref(TENANT, a_turn())]
    assert [await queue.replay(refs), await queue.replay(refs)] == [1, 0]
    entry = await queue.take("c")
    assert (entry.turn, entry.attempt, await queue.dead()) == (turn, 1, [])


async def test_a_replayed_letter_of_a_queued_turn_is_only_forgotten(queue):
    """The turn is queued once."""
    turn = a_turn()
    await queue.publish(TENANT, turn)
    await queue.settle(await queue.take("c"), Dead("no"))
    await queue.publish(TENANT, turn)
    assert await queue.replay([Ref(TENANT, turn)]) == 1
    assert turns_of(await drain(queue)) == [turn]
