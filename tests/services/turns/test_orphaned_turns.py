"""What a dead owner left, met by the next turn of its conversation."""

from __future__ import annotations

import pytest

from cluster.errors import ConversationBusyError
from services.backend.scripted import ScriptedBackend
from services.conversations import ids
from services.conversations.records import Item, TurnState
from services.conversations.store import Reply, Tailed, Verdict
from services.turns.events import EventKind
from tests.fakes.unsteady_store import UnsteadyStore
from tests.support.turn_kit import TENANT, TurnKit, collect, user
from tests.support.turns import a_begin, a_note, a_request

LEASE_S = 15.0
PATIENCE_S = 60.0  # a dispatcher may still come


class Orphanage:
    """A conversation whose turn has lost its owner: question asked, ``said`` journalled."""

    def __init__(self, tokenizer) -> None:
        self.now = 1000.0
        backend = ScriptedBackend(tokenizer.encode_text("\n Fine."))
        self.kit = TurnKit(tokenizer, backend, store=UnsteadyStore(clock=lambda: self.now))
        self.tokenizer = tokenizer
        self.conversation = self.turn = ""

    async def leave(self, said: str, stop: list[str], window: str = "") -> None:
        store = self.kit.store
        self.conversation = (await store.create(TENANT, metadata={})).id
        self.turn = ids.new_response(self.conversation)
        question = Item(id=ids.new_item(self.conversation), role="user", text="Tell me", turn=self.turn)
        begin = a_begin(self.turn, lease_s=LEASE_S, request=a_request(input=[question], stop=stop, window=window))
        assert (await store.begin(begin)).verdict is Verdict.OK
        sampled = self.tokenizer.encode_text(said)
        await store.note([a_note(self.turn, 0, sampled, lease_s=LEASE_S)])

    async def next_turn(self):
        turn = self.kit.stored_turn(user("And now?"), conversation=self.conversation)
        return await collect(self.kit.service.respond(turn))

    async def texts(self) -> list[str]:
        return [item.text for item in (await self.kit.store.load(TENANT, self.conversation)).items]


@pytest.fixture
async def orphanage(tokenizer):
    made = Orphanage(tokenizer)
    await made.kit.service.start()
    yield made
    await made.kit.service.stop()


async def test_the_conversation_is_busy_until_the_lease_is_over(orphanage):
    """Within fifteen seconds the owner may be alive."""
    await orphanage.leave("\n Once upon", [])
    orphanage.now += LEASE_S - 1
    with pytest.raises(ConversationBusyError) as caught:
        await orphanage.next_turn()
    assert caught.value.active == orphanage.turn


async def test_a_turn_that_its_process_gave_up_is_left_to_a_dispatcher_first(orphanage):
    """For as long as one whose owner has died: it is to be finished, not cut short by whoever asks next."""
    await orphanage.leave("\n Once upon", [])
    owner = (await orphanage.kit.store.turn(TENANT, orphanage.turn)).owner
    await orphanage.kit.store.release(TENANT, orphanage.turn, owner=owner, is_queued=False)
    orphanage.now += PATIENCE_S - 1
    with pytest.raises(ConversationBusyError):
        await orphanage.next_turn()
    orphanage.now += 1
    _, events = await orphanage.next_turn()
    assert events[-1].kind is EventKind.COMPLETED
    assert await orphanage.texts() == ["Tell me", "Once upon", "And now?", "Fine."]


async def test_after_the_lease_the_partial_answer_is_kept_and_the_conversation_goes_on(orphanage):
    """Question and partial answer are in the history, and in the next turn's prompt with their own ids."""
    await orphanage.leave("\n Once upon", [])
    orphanage.now += LEASE_S + PATIENCE_S
    _, events = await orphanage.next_turn()
    record = await orphanage.kit.store.turn(TENANT, orphanage.turn)
    prompt = orphanage.kit.backend.requests[0].prompt_ids
    sampled = orphanage.tokenizer.encode_text("\n Once upon")
    assert events[-1].kind is EventKind.COMPLETED
    assert await orphanage.texts() == ["Tell me", "Once upon", "And now?", "Fine."]
    assert (record.state, record.answer.status) == (TurnState.INCOMPLETE, "incomplete")
    assert str(sampled)[1:-1] in str(prompt)


async def test_the_partial_answer_says_where_its_window_began(orphanage):
    """The next turn goes on from there, as if its owner had lived."""
    await orphanage.leave("\n Once upon", [], window="msg_first")
    orphanage.now += LEASE_S + PATIENCE_S
    await orphanage.next_turn()
    assert (await orphanage.kit.store.turn(TENANT, orphanage.turn)).answer.window == "msg_first"


async def test_a_journal_with_a_stop_string_is_cut_as_its_owner_would_have(orphanage):
    """What the client never saw does not enter the history."""
    await orphanage.leave("\n Once upon a", [" upon"])
    orphanage.now += LEASE_S + PATIENCE_S
    await orphanage.next_turn()
    assert (await orphanage.texts())[1] == "Once"


async def test_a_question_without_a_word_of_answer_stays(orphanage):
    """An accepted turn is not forgotten."""
    await orphanage.leave("", [])
    orphanage.now += LEASE_S + PATIENCE_S
    await orphanage.next_turn()
    assert await orphanage.texts() == ["Tell me", "And now?", "Fine."]


async def test_of_two_adopters_one_waits(orphanage, monkeypatch):
    """The other is told that the conversation is busy."""
    await orphanage.leave("\n Once", [])
    orphanage.now += LEASE_S + PATIENCE_S
    claim = orphanage.kit.store.claim

    async def second(*args, **kwargs):
        await claim(TENANT, orphanage.turn, owner="somebody else", lease_s=LEASE_S)
        return await claim(*args, **kwargs)

    monkeypatch.setattr(orphanage.kit.store, "claim", second)
    with pytest.raises(ConversationBusyError):
        await orphanage.next_turn()


@pytest.mark.parametrize("verdict", [Verdict.TERMINAL, Verdict.ABSENT])
async def test_an_orphan_that_ended_meanwhile_is_left_alone(orphanage, monkeypatch, verdict):
    """The turn looks again, and no longer than a few times."""
    await orphanage.leave("\n Once", [])
    orphanage.now += LEASE_S + PATIENCE_S

    async def ended(*_args, **_kwargs):
        return Reply(verdict)

    monkeypatch.setattr(orphanage.kit.store, "claim", ended)
    with pytest.raises(ConversationBusyError):
        await orphanage.next_turn()
    assert not orphanage.kit.store.commits


async def test_an_orphan_whose_journal_has_a_hole_is_failed(orphanage, monkeypatch):
    """Nobody can say what its client saw, so nothing of it enters the history; the conversation is free."""
    await orphanage.leave("\n Once", [])
    orphanage.now += LEASE_S + PATIENCE_S

    async def broken(*_args):
        return [Tailed(TurnState.RUNNING, is_broken=True)]

    monkeypatch.setattr(orphanage.kit.store, "tail", broken)
    await orphanage.next_turn()
    record = await orphanage.kit.store.turn(TENANT, orphanage.turn)
    assert (record.state, record.error_code) == (TurnState.FAILED, "turn_lost")
    assert await orphanage.texts() == ["And now?", "Fine."]
