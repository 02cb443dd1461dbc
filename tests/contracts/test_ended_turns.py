"""What every ConversationStore promises about the record of a turn that has ended."""

from __future__ import annotations

import msgspec
import pytest

from services.conversations import ids
from services.conversations.records import Item, TurnState
from services.conversations.store import Reply, Verdict
from tests.support.stores import ALSO_TWICE
from tests.support.turns import ENDED, TENANT, a_begin, a_commit, a_note, a_request, some_items, some_logprobs

pytestmark = ALSO_TWICE


@pytest.fixture
async def turn(store):
    made = await store.create(TENANT, metadata={})
    name = ids.new_response(made.id)
    await store.begin(a_begin(name))
    return name


async def end(store, turn, **changes):
    """Commit, and read the record."""
    assert (await store.commit(a_commit(turn, **changes))).verdict in ENDED
    return await store.turn(TENANT, turn)


async def test_an_ended_record_keeps_all_generated_ids(store, turn):
    """Those that its answer keeps are fewer when a stop string cut it."""
    record = await end(store, turn, ids=[5, 64793, 7, 8])
    assert (record.ids, record.total, record.answer.ids) == ([5, 64793, 7, 8], 4, [5, 64793])


async def test_ids_that_the_answer_keeps_are_read_from_it(store, turn):
    """They are stored once."""
    record = await end(store, turn)
    assert (record.ids, record.total, record.answer.ids) == ([5, 64793], 2, [5, 64793])


async def test_the_ids_count_that_were_committed_not_those_that_were_noted(store, turn):
    """The journal may be ahead of an answer that its owner cut, or behind."""
    await store.note([a_note(turn, 0, [5, 64793, 1, 2, 3])])
    record = await end(store, turn)
    assert (record.ids, record.total) == ([5, 64793], 2)


@pytest.mark.parametrize("num_best", [0, 2])
async def test_an_ended_record_keeps_log_probabilities(store, turn, num_best):
    """Of all generated ids."""
    probabilities = some_logprobs(2, num_best)
    assert (await end(store, turn, logprobs=probabilities)).logprobs == probabilities


async def test_without_log_probabilities_there_are_none(store, turn):
    """None says that nobody asked for them."""
    assert (await end(store, turn)).logprobs is None


async def test_the_input_of_an_ended_turn_is_on_its_line(store, turn):
    """The record names it, and it is read from there."""
    begun = await store.turn(TENANT, turn)
    assert await store.turn_input(TENANT, begun) == a_request().input
    items = [Item(id=ids.new_item(begun.conversation), role="system", text="s"), *some_items(turn)]
    record = await end(store, turn, items=items)
    assert record.request == msgspec.structs.replace(a_request(), input=[])
    assert await store.turn_input(TENANT, record) == items[:2]


async def test_a_turn_without_an_answer_keeps_its_input(store, turn):
    """It is not on the line, so it stays in the record."""
    record = await end(store, turn, state=TurnState.FAILED, items=[], ids=[])
    assert await store.turn_input(TENANT, record) == record.request.input == a_request().input


async def test_an_ended_record_names_the_last_item_behind_it(store, turn):
    """A branch that leaves it begins there, whether or not it appended anything."""
    items = some_items(turn)
    assert (await end(store, turn, items=items)).last == items[-1].id
    other = ids.new_response(ids.conversation_of(turn))
    await store.begin(a_begin(other, base_version=1))
    failed = await end(store, other, base_version=1, state=TurnState.FAILED, items=[], ids=[])
    assert (failed.last, failed.answer, failed.error_code) == (items[-1].id, None, "")


async def test_a_turn_can_end_with_input_and_no_answer(store, turn):
    """What was asked is kept, then, and read as its input."""
    question = some_items(turn)[:1]
    record = await end(store, turn, state=TurnState.CANCELLED, items=question, ids=[])
    assert (record.answer, record.ids, record.last) == (None, [], question[0].id)
    assert await store.turn_input(TENANT, record) == question


async def test_an_ended_record_is_changed_by_nothing(store, turn):
    """Whoever writes late, whatever he writes."""
    ended = await end(store, turn)
    await store.note([a_note(turn, 0, [1, 2, 3], moves=3)])
    await store.commit(a_commit(turn, state=TurnState.FAILED, items=[], ids=[]))
    await store.commit(a_commit(turn, owner="b", base_version=1))
    await store.release(TENANT, turn, owner="a", is_queued=True)
    assert await store.claim(TENANT, turn, owner="b", lease_s=60.0) == Reply(Verdict.TERMINAL)
    await store.cancel(TENANT, turn)
    assert (await store.begin(a_begin(turn, base_version=1))).verdict is Verdict.EXISTS
    assert await store.turn(TENANT, turn) == ended
    assert len((await store.load(TENANT, ended.conversation)).items) == 2
