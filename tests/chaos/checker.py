"""Judges a run by what its clients wrote down and by what Redis holds afterwards; pure, and blind to the cluster.

A *fault* is a sentence about something that must never be, however many processes died: a turn lost or doubled, a gap
or a repetition in what a client was told, a history that is not what the client saw, work left behind.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from tests.chaos.case import DELTA, ENDED, Case
from tests.chaos.kept import Kept
from tests.chaos.record import End, Entry, Read


def check(entries: Iterable[Entry], kept: Kept) -> list[str]:
    """The faults of a run whose clients have all ended."""
    case = Case(entries, kept)
    return [fault for rule in RULES for fault in rule(case)]


def each_ask_ends_as_its_turn(case: Case) -> Iterator[str]:
    """Each client saw one end of what it asked for, and it is that of the one turn that was accepted for it."""
    for name in case.asks:
        ends = case.ends[name]
        if len(ends) == 1:
            yield from _as_its_turn(case, name, ends[0])
        else:
            yield f"{name}: its client saw {len(ends)} ends"


def _as_its_turn(case: Case, name: str, end: End) -> Iterator[str]:
    turn = case.turn_of.get(name)
    if turn is None:
        yield f"{name}: no turn is left of it; its client saw {end.state}"
        return
    record = case.kept.turns[turn]
    if record.state != end.state:
        yield f"{name}: its turn is {record.state} ({record.error_code or 'no error'}), its client saw {end.state}"
    if end.response != turn:
        yield f"{name}: its key stands for {turn}, its client saw the end of {end.response}"


def nothing_is_accepted_twice(case: Case) -> Iterator[str]:
    """Whatever a client was told of, is the turn that its key stands for."""
    told = {(one.ask, turn) for turn, reads in case.reads.items() for one in reads}
    told |= {(r.ask, turn) for turn, replies in case.replies.items() for r in replies if turn and r.what == "create"}
    for name, turn in sorted(told):
        if case.turn_of.get(name) != turn:
            yield f"{name}: {turn or 'a turn without a name'} was accepted, its key stands for {case.turn_of.get(name)}"


def each_turn_is_written_once(case: Case) -> Iterator[str]:
    """Each turn was asked for and has ended; its question and its answer are kept once."""
    questions = Counter(item.text for item in case.kept.items.values() if item.role == "user")
    answers = Counter(item.turn for item in case.kept.items.values() if item.role == "assistant")
    for turn, record in case.kept.turns.items():
        name = case.ask_of.get(turn)
        if name is None and record.was_refused:
            continue  # its client was told to come again, and its key then stood for another one
        if name is None:
            yield f"{turn}: nobody asked for it ({record.state}: {record.inputs})"
            continue
        if record.state not in {*ENDED, "failed"}:
            yield f"{name}: its turn is still {record.state}"
        if (times := questions[case.asks[name].input]) != case.is_kept(record):
            yield f"{name}: its question is kept {times} times ({record.state})"
        if (times := answers[turn]) != (bool(record.answer) or record.state == "completed"):
            yield f"{name}: its answer is kept {times} times ({record.state})"


def streams_have_no_gap(case: Case) -> Iterator[str]:
    """Each connection goes on right behind its cursor; what is told again, from the beginning, is the same."""
    for turn, reads in case.reads.items():
        name = case.ask_of.get(turn, turn)
        for read in reads:
            yield from _behind_its_cursor(name, read)
        if turn in case.kept.turns and not case.is_adopted(turn):
            yield from _told_alike(case, turn)


def _behind_its_cursor(name: str, read: Read) -> Iterator[str]:
    numbers = [event.seq for event in read.events]
    if numbers != list(range(read.cursor + 1, read.cursor + 1 + len(numbers))):
        yield f"{name}: behind event {read.cursor} its client was told {ranges(numbers)}"


def _told_alike(case: Case, turn: str) -> Iterator[str]:
    first: dict[int, str] = {}
    for event in (event for telling in case.tellings(turn) for event in telling):
        if first.setdefault(event.seq, event.id) != event.id:
            yield f"{case.ask_of.get(turn, turn)}: event {event.seq} was told as {first[event.seq]} and as {event.id}"
            return


def texts_are_what_is_kept(case: Case) -> Iterator[str]:
    """What was told piece by piece is what was told at the end, and is what is kept."""
    for turn, name in case.ask_of.items():
        if case.kept.turns[turn].state == "failed":
            continue
        kept = case.text(turn)
        if {*_final_texts(case, turn)} - {kept}:
            yield f"{name}: its client was told a text at the end that is not kept"
        deltas = told_deltas(case, turn)
        if deltas not in {None, kept} and not is_splice(case, turn):
            yield f"{name}: the deltas that its client was told are not the text that is kept"


def _final_texts(case: Case, turn: str) -> Iterator[str]:
    yield from (read.events[-1].text for read in case.reads[turn] if read.end == "ended")
    yield from (reply.text for reply in case.replies[turn] if reply.state in ENDED)
    yield from (end.text for end in case.ends[case.ask_of[turn]])


def told_deltas(case: Case, turn: str) -> str | None:
    """The text of all deltas of the last telling; None where it has no end."""
    if not any(read.end == "ended" for read in case.reads[turn]):
        return None
    return "".join(event.text for event in case.tellings(turn)[-1] if event.type == DELTA)


def is_splice(case: Case, turn: str) -> bool:
    """``starting_after`` says no checksum, so a turn that was taken over may go on otherwise without a word."""
    return case.is_adopted(turn) and any(read.by == "starting_after" for read in case.reads[turn])


def lines_hold_what_was_seen(case: Case) -> Iterator[str]:
    """Up to each turn's end, its line holds what its client saw up to there; behind the last one there is nothing."""
    for turn, name in case.ask_of.items():
        if case.kept.turns[turn].state in ENDED:
            yield from _up_to(case, turn, name)
    last = defaultdict(set)
    for turn, record in case.kept.turns.items():
        last[case.line_of(turn)].add(record.last)
    for key, line in case.kept.lines.items():
        if line.active:
            yield f"line {key}: still active with {line.active}"
        if len(set(line.items)) != len(line.items):
            yield f"line {key}: an item is on it twice"
        if line.items and line.items[-1] not in last[key]:
            yield f"line {key}: no turn ends with its last item"


def _up_to(case: Case, turn: str, name: str) -> Iterator[str]:
    items, seen = case.upto(turn), case.path(turn)
    if items is None:
        yield f"{name}: what it said is not on its line"
    elif (said := [case.said(item) for item in items]) != seen:
        yield f"{name}: up to it its line holds {_brief(said)}, its client saw {_brief(seen)}"


def conversations_are_told_as_seen(case: Case) -> Iterator[str]:
    """The API tells a conversation as its client saw it."""
    for listed in case.listed:
        turns = [case.turn_of.get(name, "") for name in case.conversations[listed.conversation]]
        seen = case.path(turns[-1]) if turns else []
        if listed.items != seen:
            yield f"{listed.conversation}: told as {_brief(listed.items)}, its client saw {_brief(seen)}"


def nothing_is_left(case: Case) -> Iterator[str]:
    """No journal, nothing that waits or is due, no key that would stay for ever."""
    kept = case.kept
    yield from (f"{name} is left" for name in (*kept.journals, *kept.due, *kept.queued))
    yield from (f"{name} would stay for ever" for name in kept.immortal)


RULES: Sequence[Callable[[Case], Iterator[str]]] = (
    each_ask_ends_as_its_turn,
    nothing_is_accepted_twice,
    each_turn_is_written_once,
    streams_have_no_gap,
    texts_are_what_is_kept,
    lines_hold_what_was_seen,
    conversations_are_told_as_seen,
    nothing_is_left,
)


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as ``0-7,9-12``."""
    spans = [[number for _, number in span] for _, span in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else f"{span[0]}" for span in spans) or "nothing"


def _brief(said: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{role[0]}:{text.partition(':')[0] if role == 'user' else len(text)}" for role, text in said]
