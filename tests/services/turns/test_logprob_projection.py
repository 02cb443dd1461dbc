"""Log probabilities beside the text of an answer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol import FinishReason, Logprobs
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.backend.scripted import Fault, FaultKind, logprobs_of
from services.turns.events import EventKind, TokenLogprob, TurnEvent
from services.turns.logprobs import LEAST, LogprobBook, token_text
from services.turns.projection import Projection
from tests.services.turns.test_projection import answers_with_stops, groups_of
from tests.support.turn_kit import TINY, collect, deltas

TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)


def project(
    groups: list[list[int]], stops: list[str], tools: tuple[str, ...] = ()
) -> tuple[Projection, list[TurnEvent]]:
    projection = Projection(TOKENIZER, stops, tools, logprobs=True)
    events = projection.open()
    for ids in groups:
        events += projection.push(ids, [logprobs_of(token_id, 2) for token_id in ids])
    return projection, events + projection.close()


def joined(events: list[TurnEvent]) -> list[TokenLogprob]:
    return [entry for event in events for entry in event.logprobs]


def entry_of(token_id: int) -> TokenLogprob:
    book = LogprobBook(TOKENIZER)
    book.add([token_id], [logprobs_of(token_id, 2)])
    return book.entries[0]


def shown(entries: list[TokenLogprob]) -> str:
    return b"".join(entry.data or b"" for entry in entries).decode(errors="replace").lstrip()


@given(answers_with_stops(), st.lists(st.integers(0, 5), max_size=8))
def test_every_id_that_stays_has_its_entry_in_order(case, sizes):
    """However ids are grouped: all of them, or those in front of the first that a stop string touches."""
    ids, stops = case
    projection, events = project(groups_of(ids, sizes), stops)
    entries = joined(events)
    kept = ids[: len(entries)]
    assert entries == [entry_of(token_id) for token_id in kept] == list(projection.logprobs)
    if not projection.is_stopped:
        assert kept == ids
    else:
        assert kept == projection.answer_ids()[: len(kept)]
        assert deltas(events).startswith(TOKENIZER.decode(kept).lstrip())


@given(answers_with_stops())
def test_entries_come_with_the_same_events_however_ids_are_grouped(case):
    """They depend on ids alone, as the events do."""
    ids, stops = case
    one_by_one = project([[token_id] for token_id in ids], stops)[1]
    assert project([ids], stops)[1] == one_by_one


@given(answers_with_stops())
def test_an_entry_never_comes_before_its_text(case):
    """At each event the text so far holds all that the entries so far show, so a stop string takes nothing back."""
    ids, stops = case
    text, entries = "", []
    for event in project([ids], stops)[1]:
        text += event.text if event.kind is EventKind.TEXT_DELTA else ""
        entries += event.logprobs
        if event.kind is EventKind.TEXT_DELTA:
            assert text.startswith(TOKENIZER.decode(ids[: len(entries)]).lstrip())


@given(st.text(min_size=1, max_size=20).filter(lambda text: "\u2581" not in text))  # a blank to SentencePiece
def test_bytes_joined_are_the_text(text):
    """Also where a character is spread over several ids."""
    _, events = project([TOKENIZER.encode_text("\n" + text)], [])
    assert shown(joined(events)) == deltas(events) == text.lstrip()


def test_ids_without_text_come_with_the_next_delta():
    """The header's newline, and the first bytes of a character."""
    ids = TOKENIZER.encode_text("\n😀")
    assert all(TOKENIZER.byte(token_id) is not None for token_id in ids[1:])
    with_entries = [event for event in project([ids], [])[1] if event.logprobs]
    assert [(event.kind, len(event.logprobs)) for event in with_entries] == [(EventKind.TEXT_DELTA, len(ids))]


def test_bytes_of_a_character_that_is_never_whole_come_at_the_end():
    """They are no part of the text, but they were drawn."""
    ids = [*TOKENIZER.encode_text("\nHi"), 3 + 0xE4, 3 + 0xBD]
    done = next(event for event in project([ids], [])[1] if event.kind is EventKind.TEXT_DONE)
    assert [(entry.token, entry.data) for entry in done.logprobs] == [("\\xe4", b"\xe4"), ("\\xbd", b"\xbd")]


def test_a_calls_ids_come_at_the_end():
    """What is no text is told once it is certain; a call has entries for all its ids."""
    ids = TOKENIZER.encode_text("weather\n```python\ntool_call(city='Rome')\n```")
    projection, events = project([ids], [], tools=("weather",))
    assert projection.call is not None
    assert [(event.kind, len(event.logprobs)) for event in events if event.logprobs] == [
        (EventKind.TEXT_DONE, len(ids))
    ]


def test_what_a_token_shows():
    """A blank is a blank, a byte is itself, a special shows its name where it has one, and nothing has no bytes."""
    letter = next(i for i in range(259, TOKENIZER.num_pieces) if TOKENIZER.piece(i) == "\u2581a")
    assert token_text(TOKENIZER, letter) == (" a", b" a")
    assert token_text(TOKENIZER, 3 + ord("\n")) == ("\n", b"\n")
    assert token_text(TOKENIZER, 3 + 0xFF) == ("\\xff", b"\xff")
    assert token_text(TOKENIZER, TOKENIZER.eos_id) == ("</s>", None)
    assert token_text(TOKENIZER, TOKENIZER.role_id("user")) == ("<|user|>", b"<|user|>")
    assert token_text(TOKENIZER, TOKENIZER.vocab_size) == ("", None)


def test_an_impossible_token_has_a_finite_number():
    """JSON has no infinity; OpenAI writes -9999."""
    book = LogprobBook(TOKENIZER)
    book.add([5], [Logprobs(drawn=-math.inf, top_ids=[6], top=[-math.inf])])
    assert (book.entries[0].logprob, book.entries[0].top[0].logprob) == (LEAST, LEAST)


@pytest.mark.parametrize("frame", [1, 3])
async def test_a_moved_answer_keeps_its_entries(kit, frame):
    """Each attempt reports its own ids; together they are the whole answer's."""
    kit.backend.frame = frame
    kit.backend.faults = iter([Fault(FaultKind.LOST, after=4)])
    _, events = await collect(kit.service.chat(kit.chat_turn(logprobs=2)))
    result = events[-1].result
    assert joined(events) == list(result.logprobs) == [entry_of(token_id) for token_id in result.ids]


async def test_stored_turns_have_them_too(kit):
    """They go to the client alone; the record keeps ids."""
    _, events = await collect(kit.service.respond(kit.stored_turn(logprobs=0)))
    assert [entry.top for entry in joined(events)] == [()] * len(kit.backend.answer)


async def test_a_replica_that_forgets_them_is_lost(kit, monkeypatch):
    """Ids without the entries that were asked for would shift all that follow, so the answer goes on elsewhere."""
    monkeypatch.setattr("services.backend.scripted._logprobs", lambda _ids, _best: None)
    _, events = await collect(kit.service.chat(kit.chat_turn(logprobs=1)))
    assert (events[-1].kind, events[-1].result.reason) == (EventKind.FAILED, FinishReason.FAILED)
    assert len(kit.backend.requests) > 1


async def test_nobody_gets_what_nobody_asked_for(kit):
    """Without the option there are none, and the replica is not asked."""
    _, events = await collect(kit.service.chat(kit.chat_turn()))
    assert kit.backend.requests[0].sampling.logprobs is None
    assert not joined(events)
