"""What every ConversationStore promises about turns: one at a time, under a lease, and every write twice at no harm."""

from __future__ import annotations

import msgspec
import pytest

from cluster.errors import NotFoundError
from cluster.protocol import Hint
from services.conversations import ids
from services.conversations.keys import MAIN_LINE
from services.conversations.records import TurnState
from services.conversations.store import Part, Reply, Verdict
from tests.support.turns import LEASE_S, TENANT, a_begin, a_commit, a_note, a_request, journal_of, some_items

HINT = Hint(rank=1, incarnation="replica#7", tokens=320)


@pytest.fixture
async def turn(store):
    """A turn that owner ``a`` has begun."""
    made = await store.create(TENANT, metadata={})
    name = ids.new_response(made.id)
    assert (await store.begin(a_begin(name))).verdict is Verdict.OK
    return name


@pytest.fixture
async def expired(store):
    """A turn whose owner ``a`` wrote three ids and let its lease run out."""
    made = await store.create(TENANT, metadata={})
    name = ids.new_response(made.id)
    await store.begin(a_begin(name, lease_s=0.0))
    await store.note([a_note(name, 0, [1, 2, 3], lease_s=0.0)])
    return name


async def test_a_begun_turn_is_running_and_holds_its_line(store, turn):
    """A begin writes the record and marks the line."""
    record = await store.turn(TENANT, turn)
    assert (record.id, record.conversation) == (turn, ids.conversation_of(turn))
    assert (record.state, record.owner, record.fence, record.total) == (TurnState.RUNNING, "a", 1, 0)
    assert (record.request, record.base_version, record.answer) == (a_request(), 0, None)
    assert record.until_ms > record.created_at * 1000 > 0
    assert (await store.load(TENANT, record.conversation)).active == turn


async def test_begin_twice_by_one_owner_is_ok_twice(store, turn):
    """A lost reply costs nothing: the owner learns that it holds the turn."""
    assert await store.begin(a_begin(turn)) == Reply(Verdict.OK, value=1)


async def test_begin_of_the_same_turn_by_another_owner_says_exists(store, turn):
    """Two owners never both believe that they generate."""
    assert await store.begin(a_begin(turn, owner="b")) == Reply(Verdict.EXISTS)
    assert (await store.turn(TENANT, turn)).owner == "a"


async def test_begin_of_an_ended_turn_says_exists(store, turn):
    """A terminal record is immutable, for its owner too."""
    await store.commit(a_commit(turn))
    assert await store.begin(a_begin(turn)) == Reply(Verdict.EXISTS)


async def test_a_second_turn_is_busy_with_the_first(store, turn):
    """The answer names the running turn."""
    other = ids.new_response(ids.conversation_of(turn))
    for _ in range(2):
        assert await store.begin(a_begin(other, owner="b")) == Reply(Verdict.BUSY, turn=turn)
    with pytest.raises(NotFoundError):
        await store.turn(TENANT, other)


async def test_a_turn_behind_a_dead_owner_is_told_so(store, expired):
    """The lease has run out, so the newcomer may claim what holds the line."""
    other = ids.new_response(ids.conversation_of(expired))
    for _ in range(2):
        reply = await store.begin(a_begin(other, owner="b"))
        assert (reply.verdict, reply.turn) == (Verdict.EXPIRED, expired)
        assert 0 <= reply.value < 60_000


async def test_begin_on_a_line_that_moved_on_names_its_version(store, turn):
    """Whoever loaded an old version loads again."""
    await store.commit(a_commit(turn))
    other = ids.new_response(ids.conversation_of(turn))
    assert await store.begin(a_begin(other)) == Reply(Verdict.VERSION, value=1)
    assert await store.begin(a_begin(other, base_version=1)) == Reply(Verdict.OK, value=2)


async def test_begin_without_a_line_is_absent(store):
    """An unknown conversation is not made by the way."""
    turn = ids.new_response(ids.new_conversation())
    assert await store.begin(a_begin(turn)) == Reply(Verdict.ABSENT)
    with pytest.raises(NotFoundError):
        await store.turn(TENANT, turn)


async def test_begin_can_make_the_line_it_stands_on(store):
    """A turn without a conversation still has a line, at version 0."""
    turn = ids.new_response(ids.new_conversation())
    assert await store.begin(a_begin(turn, new_line=True)) == Reply(Verdict.OK, value=1)
    assert await store.begin(a_begin(turn, new_line=True)) == Reply(Verdict.OK, value=1)
    assert (await store.commit(a_commit(turn))).verdict is Verdict.OK
    line = await store.load(TENANT, ids.conversation_of(turn), Part(MAIN_LINE))
    assert (line.version, line.conversation.metadata, len(line.items), line.is_hidden) == (1, {}, 2, True)
    assert line.conversation.created_at > 0


async def test_begin_with_a_line_of_its_own_at_another_version_makes_nothing(store):
    """A line that is to be made starts at 0."""
    turn = ids.new_response(ids.new_conversation())
    assert await store.begin(a_begin(turn, new_line=True, base_version=3)) == Reply(Verdict.VERSION, value=0)
    with pytest.raises(NotFoundError):
        await store.load(TENANT, ids.conversation_of(turn))


async def test_a_turn_on_another_root_than_its_conversation_is_refused(store):
    """Their keys would not share a slot."""
    turn = ids.new_response(ids.new_conversation())
    with pytest.raises(ValueError, match="root"):
        await store.begin(a_begin(turn, conversation=ids.new_conversation()))


async def test_notes_are_journalled_in_order(store, turn):
    """Ids come back as they were written, over several notes."""
    assert await store.note([a_note(turn, 0, [1, 2])]) == [Reply(Verdict.OK, value=2)]
    assert await store.note([a_note(turn, 2, [0, 2**32 - 1])]) == [Reply(Verdict.OK, value=4)]
    assert await journal_of(store, turn) == [1, 2, 0, 2**32 - 1]
    assert (await store.turn(TENANT, turn)).total == 4


async def test_a_note_sent_again_changes_nothing(store, turn):
    """Its ids are held already."""
    note = a_note(turn, 0, [1, 2])
    assert await store.note([note, note]) == [Reply(Verdict.OK, value=2)] * 2
    assert await journal_of(store, turn) == [1, 2]


async def test_an_overlapping_note_appends_its_new_part(store, turn):
    """A sender that is unsure sends from an earlier index."""
    await store.note([a_note(turn, 0, [1, 2, 3])])
    assert await store.note([a_note(turn, 1, [2, 3, 4, 5])]) == [Reply(Verdict.OK, value=5)]
    assert await journal_of(store, turn) == [1, 2, 3, 4, 5]


async def test_a_note_that_skips_ids_is_told_what_is_held(store, turn):
    """The sender goes on from there."""
    await store.note([a_note(turn, 0, [1])])
    assert await store.note([a_note(turn, 3, [4])]) == [Reply(Verdict.GAP, value=1)]
    assert await journal_of(store, turn) == [1]


async def test_an_empty_note_only_renews_the_lease(store, expired):
    """An idle owner keeps its turn."""
    assert await store.note([a_note(expired, 3, [])]) == [Reply(Verdict.OK, value=3)]
    other = ids.new_response(ids.conversation_of(expired))
    assert (await store.begin(a_begin(other, owner="b"))).verdict is Verdict.BUSY


async def test_many_turns_are_noted_in_one_call(store):
    """Each note has its own verdict; one lost turn does not hurt the others."""
    names = []
    for _ in range(20):
        made = await store.create(TENANT, metadata={})
        names.append(ids.new_response(made.id))
        await store.begin(a_begin(names[-1]))
    notes = [a_note(name, 0, [i], owner="a" if i % 2 else "b") for i, name in enumerate(names)]
    replies = await store.note(notes)
    assert [reply.verdict for reply in replies] == [Verdict.LOST, Verdict.OK] * 10
    assert [await journal_of(store, name) for name in names] == [[i] if i % 2 else [] for i in range(20)]


async def test_no_notes_are_no_replies(store):
    """A flusher with nothing to flush does no harm."""
    assert await store.note([]) == []


async def test_a_note_for_an_unknown_turn_is_absent(store):
    """The record was never there, or its server lost it."""
    assert await store.note([a_note(ids.new_response(ids.new_conversation()), 0, [1])]) == [Reply(Verdict.ABSENT)]


async def test_a_note_after_the_commit_is_lost(store, turn):
    """The journal went with the end; nothing makes it anew."""
    await store.note([a_note(turn, 0, [1])])
    await store.commit(a_commit(turn))
    assert await store.note([a_note(turn, 1, [2])]) == [Reply(Verdict.LOST)]
    assert await journal_of(store, turn) == []


async def test_a_live_turn_cannot_be_claimed(store, turn):
    """The answer says until when its lease runs."""
    reply = await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S)
    assert (reply.verdict, reply.value) == (Verdict.LIVE, (await store.turn(TENANT, turn)).until_ms)


async def test_an_expired_turn_is_claimed_once(store, expired):
    """The first claimer learns how many ids are held; repeating it is OK, another is told to leave it."""
    for _ in range(2):
        assert await store.claim(TENANT, expired, owner="b", lease_s=LEASE_S) == Reply(Verdict.OK, value=3)
    assert (await store.claim(TENANT, expired, owner="c", lease_s=LEASE_S)).verdict is Verdict.LIVE
    record = await store.turn(TENANT, expired)
    assert (record.owner, record.fence) == ("b", 2)


async def test_a_late_owner_loses_everything_to_its_claimer(store, expired):
    """The old owner wakes up: neither its note nor its commit is taken."""
    await store.claim(TENANT, expired, owner="b", lease_s=LEASE_S)
    assert await store.note([a_note(expired, 3, [4])]) == [Reply(Verdict.LOST)]
    assert await store.commit(a_commit(expired)) == Reply(Verdict.LOST)
    assert await journal_of(store, expired) == [1, 2, 3]
    assert (await store.turn(TENANT, expired)).state is TurnState.RUNNING


async def test_a_claimer_ends_the_turn_as_incomplete_and_frees_the_line(store, expired):
    """A dead gateway's conversation goes on: claim, read the journal, commit what there is, begin the next."""
    conversation = ids.conversation_of(expired)
    await store.claim(TENANT, expired, owner="b", lease_s=LEASE_S)
    held = await journal_of(store, expired)
    question, answer = some_items(expired)
    answer = msgspec.structs.replace(answer, ids=held, status="incomplete")
    end = a_commit(expired, owner="b", state=TurnState.INCOMPLETE, items=[question, answer], ids=held)
    assert await store.commit(end) == Reply(Verdict.OK, value=1)
    other = ids.new_response(conversation)
    assert await store.begin(a_begin(other, owner="b", base_version=1)) == Reply(Verdict.OK, value=3)
    assert (await store.load(TENANT, conversation)).items[-1].ids == [1, 2, 3]


async def test_an_owner_whose_lease_ran_out_unclaimed_goes_on(store, expired):
    """Nobody took the turn, so its owner may still write and commit."""
    assert await store.note([a_note(expired, 3, [4])]) == [Reply(Verdict.OK, value=4)]
    assert (await store.commit(a_commit(expired))).verdict is Verdict.OK


async def test_a_claim_of_an_unknown_or_ended_turn_says_so(store, turn):
    """There is nothing to take over."""
    unknown = ids.new_response(ids.new_conversation())
    assert await store.claim(TENANT, unknown, owner="b", lease_s=LEASE_S) == Reply(Verdict.ABSENT)
    await store.commit(a_commit(turn))
    assert await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S) == Reply(Verdict.TERMINAL)
    assert await store.claim(TENANT, turn, owner="a", lease_s=LEASE_S) == Reply(Verdict.TERMINAL)


async def test_a_commit_appends_and_frees_the_line(store, turn):
    """Input and answer appear together, the version moves, the line is free, the hint can be read."""
    items = some_items(turn)
    assert await store.commit(a_commit(turn, items=items, hint=HINT)) == Reply(Verdict.OK, value=1)
    line = await store.load(TENANT, ids.conversation_of(turn))
    assert (line.items, line.version, line.active, line.hint) == (items, 1, "", HINT)


async def test_a_committed_record_keeps_the_end(store, turn):
    """The record tells how the turn ended, with its answer."""
    commit = a_commit(turn)
    await store.commit(commit)
    record = await store.turn(TENANT, turn)
    assert (record.state, record.finish, record.usage) == (TurnState.COMPLETED, "stop", commit.usage)
    assert (record.answer, record.total, record.until_ms) == (commit.items[-1], 2, 0)
    assert (record.error_code, record.error_message) == ("", "")


async def test_a_commit_sent_again_is_done(store, turn):
    """The second reply carries the version that this commit made, and nothing is appended twice."""
    commit = a_commit(turn)
    await store.commit(commit)
    assert await store.commit(commit) == Reply(Verdict.DONE, value=1)
    other = ids.new_response(commit.conversation)
    await store.begin(a_begin(other, base_version=1))
    await store.commit(a_commit(other, base_version=1))
    assert await store.commit(commit) == Reply(Verdict.DONE, value=1)
    assert len((await store.load(TENANT, commit.conversation)).items) == 4


async def test_another_owners_commit_of_an_ended_turn_is_lost(store, turn):
    """Only the owner hears DONE."""
    await store.commit(a_commit(turn))
    assert await store.commit(a_commit(turn, owner="b")) == Reply(Verdict.LOST)


async def test_a_failed_turn_appends_nothing_and_frees_the_line(store, turn):
    """The next turn begins on the version that the failed one began on."""
    failed = a_commit(
        turn, state=TurnState.FAILED, items=[], ids=[], finish="", usage={}, error_code="no_replica", error_message="é"
    )
    assert await store.commit(failed) == Reply(Verdict.OK, value=0)
    record = await store.turn(TENANT, turn)
    assert (record.state, record.answer) == (TurnState.FAILED, None)
    assert (record.error_code, record.error_message) == ("no_replica", "é")
    line = await store.load(TENANT, failed.conversation)
    assert (line.items, line.version, line.active) == ([], 0, "")
    assert (await store.begin(a_begin(ids.new_response(failed.conversation)))).verdict is Verdict.OK


async def test_a_commit_without_a_hint_keeps_the_old_one(store, turn):
    """A stale hint costs a prefill; none costs one surely."""
    await store.commit(a_commit(turn, hint=HINT))
    other = ids.new_response(ids.conversation_of(turn))
    await store.begin(a_begin(other, base_version=1))
    await store.commit(a_commit(other, base_version=1))
    assert (await store.load(TENANT, ids.conversation_of(turn))).hint == HINT


async def test_a_commit_on_another_version_is_lost(store, turn):
    """The line is not the one the turn was computed on."""
    assert await store.commit(a_commit(turn, base_version=5)) == Reply(Verdict.LOST)
    assert (await store.load(TENANT, ids.conversation_of(turn))).items == []


async def test_a_commit_of_an_unknown_turn_is_absent(store):
    """A server that lost the record has nothing to end."""
    assert await store.commit(a_commit(ids.new_response(ids.new_conversation()))) == Reply(Verdict.ABSENT)


@pytest.mark.parametrize(
    "changes", [{"state": TurnState.RUNNING}, {"state": TurnState.QUEUED}, {"state": TurnState.FAILED}]
)
async def test_a_commit_that_does_not_end_its_turn_is_refused(store, turn, changes):
    """Neither an open state nor a failed turn with items can be written."""
    with pytest.raises(ValueError, match="turn"):
        await store.commit(a_commit(turn, **changes))


async def test_late_writers_of_an_erased_conversation_revive_nothing(store, turn, server):
    """Every write meets the tombstone, whoever sends it."""
    conversation = ids.conversation_of(turn)
    await store.note([a_note(turn, 0, [1])])
    await store.delete(TENANT, conversation)
    for _ in range(2):
        assert await store.note([a_note(turn, 1, [2])]) == [Reply(Verdict.GONE)]
        assert await store.commit(a_commit(turn)) == Reply(Verdict.GONE)
        assert await store.claim(TENANT, turn, owner="b", lease_s=LEASE_S) == Reply(Verdict.GONE)
        assert await store.begin(a_begin(turn, new_line=True)) == Reply(Verdict.GONE)
        other = ids.new_response(conversation)
        assert await store.begin(a_begin(other, new_line=True)) == Reply(Verdict.GONE)
    with pytest.raises(NotFoundError):
        await store.load(TENANT, conversation)
    if server is not None:
        with server.client() as client:
            assert [key.decode().rpartition(":")[2] for key in client.scan_iter()] == ["gone"]


async def test_a_foreign_tenant_can_neither_read_nor_write_a_turn(store, turn):
    """To another tenant the turn does not exist."""
    for read in (store.turn, store.cancel, store.delete_turn):
        with pytest.raises(NotFoundError):
            await read("other", turn)
    assert await journal_of(store, turn, "other") == []
    assert await store.note([a_note(turn, 0, [1], tenant="other")]) == [Reply(Verdict.ABSENT)]
    assert await store.commit(a_commit(turn, tenant="other")) == Reply(Verdict.ABSENT)
    assert await store.claim("other", turn, owner="b", lease_s=LEASE_S) == Reply(Verdict.ABSENT)
    assert (await store.turn(TENANT, turn)).total == 0


@pytest.mark.parametrize("name", ["", "resp_", "resp_*", "conv_aaaaaaaaaaaaaaaa", "resp_" + "a" * 31])
async def test_a_malformed_turn_id_is_not_found(store, name):
    """A malformed id is an id of nothing."""
    for read in (store.turn, store.cancel, store.delete_turn):
        with pytest.raises(NotFoundError):
            await read(TENANT, name)
