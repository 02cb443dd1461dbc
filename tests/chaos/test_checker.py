"""The checker on runs written by hand: a sound one, and the same with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import check, ranges
from tests.chaos.kept import Kept, KeptItem, KeptLine, KeptTurn, key_digest
from tests.chaos.record import Ask, End, Entry, Event, Listed, Read, Reply
from tests.chaos.tally import tally

ROOT = "a" * 16
CONVERSATION = f"conv_{ROOT}"
FIRST, SECOND = f"resp_{ROOT}{'b' * 16}", f"resp_{ROOT}{'c' * 16}"
CREATED, DELTA, COMPLETED = "response.created", "response.output_text.delta", "response.completed"
EVENTS = [
    Event(0, "0.00", CREATED),
    Event(1, "1.01", DELTA, "Go"),
    Event(2, "2.02", DELTA, "od"),
    Event(3, "3.02", COMPLETED, "Good", "completed"),
]


def ask(name: str, **changes: Any) -> Ask:
    fields = {"kind": "stream", "input": f"{name}: what?", "key": f"key {name}", "conversation": CONVERSATION}
    return Ask(**{"at": 0.0, "ask": name, "talker": "t", **fields, **changes})


def read(name: str, response: str, events: list[Event], **changes: Any) -> Read:
    fields = {
        "cursor": events[0].seq - 1,
        "by": "Last-Event-ID",
        "end": "ended" if len(events[-1:][0].state) else "dropped",
    }
    return Read(**{"at": 0.0, "ask": name, "response": response, "events": events, **fields, **changes})


def entries() -> list[Entry]:
    """One conversation of two turns: the first is read over two connections, the second in one piece."""
    said = [("user", "1: what?"), ("assistant", "Good"), ("user", "2: what?"), ("assistant", "Fine")]
    reply = Reply(at=0, ask="2", what="create", status=200, response=SECOND, state="completed", text="Fine")
    return [
        ask("1"),
        read("1", FIRST, EVENTS[:2]),
        read("1", FIRST, EVENTS[2:]),
        End(at=0, ask="1", response=FIRST, state="completed", text="Good"),
        ask("2", kind="whole"),
        reply,
        End(at=0, ask="2", response=SECOND, state="completed", text="Fine"),
        Listed(at=0, conversation=CONVERSATION, items=said),
    ]


def turn(answer: str, **changes: Any) -> KeptTurn:
    fields = {"state": "completed", "line": "main", "last": answer, "answer": answer, "claims": 0, "moves": 0}
    return KeptTurn(**{**fields, "error_code": "", "inputs": [], **changes})


def kept() -> Kept:
    """What Redis holds of it."""
    return Kept(
        turns={FIRST: turn("a1"), SECOND: turn("a2")},
        lines={f"{ROOT}:main": KeptLine(["q1", "a1", "q2", "a2"], "")},
        items={
            "q1": KeptItem("user", "1: what?", FIRST),
            "a1": KeptItem("assistant", "Good", FIRST),
            "q2": KeptItem("user", "2: what?", SECOND),
            "a2": KeptItem("assistant", "Fine", SECOND),
        },
        reserved={key_digest("key 1"): FIRST, key_digest("key 2"): SECOND},
        journals=[],
        due=[],
        queued=[],
        dead=0,
        immortal=[],
    )


def test_a_sound_run_has_no_faults() -> None:
    """Two turns, both ways."""
    assert check(entries(), kept()) == []


def in_kept(**changes: Callable[[Any], Any]) -> Callable[[list[Entry], Kept], tuple[list[Entry], Kept]]:
    """Redis holds something else."""

    def change(entries: list[Entry], kept: Kept) -> tuple[list[Entry], Kept]:
        return entries, msgspec.structs.replace(kept, **{k: make(getattr(kept, k)) for k, make in changes.items()})

    return change


def in_log(place: int, *entries_there: Entry) -> Callable[[list[Entry], Kept], tuple[list[Entry], Kept]]:
    """The client wrote something else at one place."""

    def change(entries: list[Entry], kept: Kept) -> tuple[list[Entry], Kept]:
        return [*entries[:place], *entries_there, *entries[place + 1 :]], kept

    return change


def without(*keys: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: {key: value for key, value in values.items() if key not in keys}


def with_(**more: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: values | more


WRONG = {
    "lost": (in_kept(turns=without(SECOND)), "2: no turn is left of it"),
    "open": (in_kept(turns=with_(**{SECOND: turn("a2", state="running")})), "2: its turn is still running"),
    "unasked": (in_kept(turns=with_(**{FIRST[:-1] + "d": turn("a1")})), "nobody asked for it"),
    "twice": (in_kept(items=with_(q3=KeptItem("user", "1: what?", FIRST))), "1: its question is kept 2 times"),
    "unanswered": (in_kept(items=without("a2")), "2: its answer is kept 0 times"),
    "other state": (in_kept(turns=with_(**{FIRST: turn("a1", state="incomplete")})), "1: its turn is incomplete"),
    "other turn": (in_kept(reserved=with_(**{key_digest("key 1"): SECOND})), f"1: {FIRST} was accepted"),
    "no end": (in_log(3), "1: its client saw 0 ends"),
    "gap": (in_log(2, read("1", FIRST, EVENTS[3:], cursor=1)), "1: behind event 1 its client was told 3"),
    "repeat": (in_log(2, read("1", FIRST, EVENTS[1:], cursor=1)), "1: behind event 1 its client was told 1-3"),
    "told otherwise": (
        in_log(2, read("1", FIRST, [EVENTS[0], Event(1, "1.09", DELTA, "Go"), *EVENTS[2:]])),
        "1: event 1 was told as 1.01 and as 1.09",
    ),
    "other delta": (
        in_log(2, read("1", FIRST, [Event(2, "2.02", DELTA, "ne"), EVENTS[3]])),
        "1: the deltas that its client was told are not the text",
    ),
    "other text": (in_kept(items=with_(a2=KeptItem("assistant", "Bad", SECOND))), "2: its client was told a text"),
    "other order": (
        in_kept(lines=lambda _: {f"{ROOT}:main": KeptLine(["q2", "a2", "q1", "a1"], "")}),
        "2: up to it its line holds",
    ),
    "more": (
        in_kept(lines=lambda _: {f"{ROOT}:main": KeptLine(["q1", "a1", "q2", "a2", "q1"], "")}),
        "no turn ends with its last item",
    ),
    "active": (
        in_kept(lines=lambda lines: {key: KeptLine(line.items, SECOND) for key, line in lines.items()}),
        "still active with",
    ),
    "listed": (in_log(7, Listed(at=0, conversation=CONVERSATION, items=[])), "told as [], its client saw"),
    "journal": (in_kept(journals=lambda _: ["c1:j"]), "c1:j is left"),
    "due": (in_kept(due=lambda _: ["t:r"]), "t:r is left"),
    "queue": (in_kept(queued=lambda _: ["c1:q"]), "c1:q is left"),
    "immortal": (in_kept(immortal=lambda _: ["c1:x"]), "c1:x would stay for ever"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_thing_wrong_is_found(wrong: str) -> None:
    """And told in a sentence that names the ask, the line or the key."""
    change, found = WRONG[wrong]
    assert any(found in fault for fault in check(*change(entries(), kept())))


def test_an_answer_told_anew_after_an_adoption_may_differ() -> None:
    """A reader without a cursor begins again, and what an adopter says is what counts."""
    other = [
        EVENTS[0],
        Event(1, "1.09", DELTA, "Fi"),
        Event(2, "2.09", DELTA, "ne"),
        Event(3, "3.09", COMPLETED, "Fine", "completed"),
    ]
    log = entries()
    log[2] = read("1", FIRST, other)
    log[3] = End(at=0, ask="1", response=FIRST, state="completed", text="Fine")
    log[7] = Listed(
        at=0,
        conversation=CONVERSATION,
        items=[("user", "1: what?"), ("assistant", "Fine"), ("user", "2: what?"), ("assistant", "Fine")],
    )
    change = in_kept(turns=with_(**{FIRST: turn("a1", claims=1)}), items=with_(a1=KeptItem("assistant", "Fine", FIRST)))
    assert check(*change(log, kept())) == []


def test_a_turn_that_was_refused_and_asked_for_again_is_no_second_one() -> None:
    """Its key stands for the one that was served; but a client that was told of it must have seen its end."""
    refused = FIRST[:-1] + "d"
    change = in_kept(turns=with_(**{refused: turn("", state="failed", error_code="overloaded")}))
    assert check(*change(entries(), kept())) == []
    told = in_log(2, read("1", refused, EVENTS[:1]), entries()[2])
    assert any(f"1: {refused} was accepted" in fault for fault in check(*change(*told(entries(), kept()))))


def test_a_fork_holds_its_prefix() -> None:
    """A branch behind the first answer holds that, and its own turn."""
    third = f"resp_{ROOT}{'d' * 16}"
    log = [
        *entries(),
        ask("3", conversation="", previous=FIRST),
        read("3", third, [*EVENTS[:3], Event(3, "3.02", COMPLETED, "Good", "completed")]),
        End(at=0, ask="3", response=third, state="completed", text="Good"),
    ]
    change = in_kept(
        turns=with_(**{third: turn("a3", line="b")}),
        lines=with_(**{f"{ROOT}:b": KeptLine(["q1", "a1", "q3", "a3"], "")}),
        items=with_(q3=KeptItem("user", "3: what?", third), a3=KeptItem("assistant", "Good", third)),
        reserved=with_(**{key_digest("key 3"): third}),
    )
    assert check(*change(log, kept())) == []
    shorter = in_kept(lines=with_(**{f"{ROOT}:b": KeptLine(["q3", "a3"], "")}))
    assert any("3: up to it its line holds" in fault for fault in check(*shorter(*change(log, kept()))))


def test_what_a_run_has_seen_is_counted() -> None:
    """By kind, end, connection and adoption."""
    counts = tally(entries(), kept())
    assert (counts["asked: stream"], counts["ended: completed"], counts["events told"]) == (1, 2, 4)
    assert (counts["stream: dropped"], counts["stream: ended"], counts["resumed by Last-Event-ID"]) == (1, 1, 1)


def test_numbers_are_told_as_ranges() -> None:
    """Short, and with their holes."""
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == "nothing"
