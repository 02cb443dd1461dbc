"""What the scripts are given: their keys and arguments, each in the order that the script's own words tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from services.conversations import codec, ids
from services.conversations.items import answer_of, spoken_ids
from services.conversations.keys import JOURNAL_SPARE_S, MAIN_LINE, TURN_SPARE_S, Keys
from services.conversations.records import Item
from services.conversations.scripts import Arg, Call
from services.conversations.store import Begin, Commit, Note, Tail

LINE_MEMBER: Final = "line:"  # members of the index and of the tombstone set
TURN_MEMBER: Final = "turn:"


def create_args(
    metadata: Mapping[str, str], items: Sequence[Item], history_ttl_s: int, ttl_s: int | None = None
) -> list[Arg]:
    """ARGV of CREATE."""
    member = LINE_MEMBER + MAIN_LINE
    return [codec.encode(dict(metadata)), history_ttl_s, member, _own(ttl_s), *item_args(items)]


def begin_call(begin: Begin, seen: str, *, history_ttl_s: int) -> Call:
    """KEYS and ARGV of BEGIN; ``seen``: the turn that its line was last seen active with, or ""."""
    keys, part = Keys.of_turn(begin.tenant, begin.turn)
    seen_part = ids.response_parts(seen or begin.turn)[1]
    line, items = keys.line(begin.line), keys.items(begin.line)
    left = keys.items(begin.fork.line) if begin.fork else items
    names = [line, keys.turn(part), keys.index, keys.gone, items, keys.item, keys.turn(seen_part), left]
    args: list[Arg] = [
        begin.turn,
        seen,
        begin.owner,
        begin.base_version,
        ms(begin.lease_s),
        ms(begin.deadline_s),
        codec.encode(msgspec.structs.replace(begin.request, input=[])),
        int(begin.new_line),
        history_ttl_s,
        ms(TURN_SPARE_S),
        codec.encode({}),
        LINE_MEMBER + begin.line,
        TURN_MEMBER + part,
        begin.state.value,
        begin.line,
        codec.encode(begin.request.input),
        begin.fork.last if begin.fork else "",
        _own(begin.ttl_s),
    ]
    return names, args


def release_call(keys: Keys, part: str, owner: str, state: str) -> Call:
    """KEYS and ARGV of RELEASE."""
    return [keys.turn(part), keys.gone], [owner, TURN_MEMBER + part, state]


def commit_call(commit: Commit, *, history_ttl_s: int) -> Call:
    """KEYS and ARGV of COMMIT."""
    keys, part = Keys.of_turn(commit.tenant, commit.turn)
    line, items = keys.line(commit.line), keys.items(commit.line)
    answer = answer_of(commit.items)
    names = [keys.turn(part), line, items, keys.item, keys.journal(part), keys.gone, keys.index]
    args: list[Arg] = [
        commit.owner,
        commit.state.value,
        commit.base_version,
        len(commit.ids),
        codec.encode_end(commit),
        codec.encode(commit.hint) if commit.hint else b"",
        history_ttl_s,
        b"" if spoken_ids(answer) == list(commit.ids) else codec.pack_ids(commit.ids),
        commit.turn,
        TURN_MEMBER + part,
        answer.id if answer else "",
        codec.pack_logprobs(commit.logprobs),
        *item_args(commit.items),
    ]
    return names, args


def note_call(note: Note) -> Call:
    """KEYS and ARGV of NOTE."""
    keys, part = Keys.of_turn(note.tenant, note.turn)
    names = [keys.turn(part), keys.journal(part), keys.gone]
    segment = codec.pack_ids(note.ids)
    lease_ms, spare_ms, logprobs = ms(note.lease_s), ms(JOURNAL_SPARE_S), codec.pack_logprobs(note.logprobs)
    member = TURN_MEMBER + part
    return names, [note.owner, note.start, segment, lease_ms, member, spare_ms, logprobs, note.moves]


def tail_call(tail: Tail) -> Call:
    """KEYS and ARGV of TAIL."""
    keys, part = Keys.of_turn(tail.tenant, tail.turn)
    return [keys.turn(part), keys.journal(part)], [tail.after, ms(tail.watch_s)]


def item_args(items: Sequence[Item]) -> list[Arg]:
    """Ids and blobs by turns."""
    return [arg for item in items for arg in (item.id, codec.encode(item))]


def _own(ttl_s: int | None) -> Arg:
    """A line's own history ttl; '' where it has none."""
    return "" if ttl_s is None else ttl_s


def ms(seconds: float) -> int:
    """Milliseconds."""
    return round(seconds * 1000)
