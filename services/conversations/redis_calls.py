"""What the Redis store sends: arguments of the scripts, in their order, and operations of more than one command.

An operation of several commands is atomic only inside each script; the scripts are written so that what happens in
between is answered (``look``, ``more``), not overlooked.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from redis.asyncio import Redis

from cluster.protocol import FinishReason
from services.conversations import codec, ids
from services.conversations.items import answer_of, spoken_ids
from services.conversations.keys import GONE_TTL_S, JOURNAL_SPARE_S, MAIN_LINE, MAX_TRIES, TURN_SPARE_S, Keys
from services.conversations.records import Item, TurnState
from services.conversations.redis_link import execute
from services.conversations.scripts import Arg, Call, lines, turns
from services.conversations.store import Begin, Commit, Note, Reply, Tail

_LINE_MEMBER: Final = "line:"  # members of the index and of the tombstone set
TURN_MEMBER: Final = "turn:"
_LAST_TURN: Final = 2  # ERASE_TURN: nothing else is left
_SLICE: Final = 1000  # members of an index that are read in one call, about
_MAX_LOOKS: Final = 4  # a line cannot change its active turn more often within one call, short of a stampede


def create_args(
    metadata: Mapping[str, str], items: Sequence[Item], history_ttl_s: int, ttl_s: int | None = None
) -> list[Arg]:
    """ARGV of CREATE."""
    member = _LINE_MEMBER + MAIN_LINE
    return [codec.encode(dict(metadata)), history_ttl_s, member, _own(ttl_s), *item_args(items)]


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


async def looking(attempt: Callable[[str], Awaitable[Any]]) -> Any:
    """The outcome of a script that needs the record of its line's active turn among its keys.

    Which turn that is, the script says (``look``); ``attempt`` runs it with that turn's id, "" at first.
    """
    seen = ""
    for _ in range(_MAX_LOOKS):
        outcome = await attempt(seen)
        if outcome[0] != b"look":
            return outcome
        seen = outcome[2].decode()
    return [b"busy", 0, seen.encode()]


async def begin(redis: Redis, begin: Begin, *, history_ttl_s: int) -> Reply:
    """Run BEGIN."""
    keys, part = Keys.of_turn(begin.tenant, begin.turn)

    def attempt(seen: str) -> Awaitable[Any]:
        seen_part = ids.response_parts(seen or begin.turn)[1]
        args = _begin_args(begin, part, seen, history_ttl_s)
        return turns.BEGIN.run(redis, _begin_keys(begin, keys, part, seen_part), args)

    return codec.decode_reply(await looking(attempt))


def _begin_keys(begin: Begin, keys: Keys, part: str, seen_part: str) -> list[str]:
    line, items = keys.line(begin.line), keys.items(begin.line)
    left = keys.items(begin.fork.line) if begin.fork else items
    return [line, keys.turn(part), keys.index, keys.gone, items, keys.item, keys.turn(seen_part), left]


def note_call(note: Note) -> Call:
    """KEYS and ARGV of NOTE."""
    keys, part = Keys.of_turn(note.tenant, note.turn)
    names = [keys.turn(part), keys.journal(part), keys.gone]
    segment = codec.pack_ids(note.ids)
    lease_ms, spare_ms, logprobs = _ms(note.lease_s), _ms(JOURNAL_SPARE_S), codec.pack_logprobs(note.logprobs)
    member = TURN_MEMBER + part
    return names, [note.owner, note.start, segment, lease_ms, member, spare_ms, logprobs, note.moves]


def tail_call(tail: Tail) -> Call:
    """KEYS and ARGV of TAIL."""
    keys, part = Keys.of_turn(tail.tenant, tail.turn)
    return [keys.turn(part), keys.journal(part)], [tail.after, _ms(tail.watch_s)]


async def claim(redis: Redis, keys: Keys, part: str, *, owner: str, lease_s: float) -> Reply:
    """Run CLAIM on the line that the turn stands on, which never changes."""
    names = [keys.turn(part), keys.line(await _line_of(redis, keys, part)), keys.gone]
    args: list[Arg] = [owner, _ms(lease_s), TURN_MEMBER + part, MAX_TRIES]
    return codec.decode_reply(await turns.CLAIM.run(redis, names, args))


async def cancel(redis: Redis, keys: Keys, part: str, turn: str, *, history_ttl_s: int) -> bytes | None:
    """Run CANCEL; the turn's state, None when there is no such turn."""
    name = await _line_of(redis, keys, part)
    args: list[Arg] = [turn, history_ttl_s, codec.encode(codec.End(finish=FinishReason.ABORTED))]
    names = [keys.turn(part), keys.line(name), keys.items(name)]
    state: bytes | None = await turns.CANCEL.run(redis, names, args)
    return state


async def erase(redis: Redis, keys: Keys) -> bool:
    """Erase a conversation with all of its root; False when there was none."""
    head: list[Arg] = [GONE_TTL_S, secrets.token_hex(8)]
    outcome = await _erase_once(redis, keys, head, [])
    existed = outcome[0] != b"absent"
    while outcome[0] == b"more":
        outcome = await _erase_once(redis, keys, head, outcome[1:])
    return existed


async def erase_turn(redis: Redis, keys: Keys, part: str, turn: str) -> bool:
    """Erase one turn, and its root with it when nothing else is left there; False when there was no such turn."""
    name = await _line_of(redis, keys, part)
    names = [keys.gone, keys.turn(part), keys.journal(part), keys.line(name), keys.items(name), keys.item, keys.index]
    names += [keys.line(), keys.items()]
    args: list[Arg] = [GONE_TTL_S, secrets.token_hex(8), TURN_MEMBER + part, turn]
    outcome = await turns.ERASE_TURN.run(redis, names, args)
    if outcome == _LAST_TURN:
        await erase(redis, keys)
    return bool(outcome)


async def read_head(redis: Redis, keys: Keys) -> tuple[bytes | None, bytes | None]:
    """``created`` and ``meta`` of a conversation; None when there is none, or nobody made it as one."""
    created, meta, hidden = cast("list[Any]", await redis.hmget(keys.line(), ["created", "meta", "hidden"]))
    return (created, meta) if hidden is None else (None, None)


async def read_turn(redis: Redis, keys: Keys, part: str) -> tuple[dict[bytes, bytes], bytes | None]:
    """A record's fields (none when absent) and the blob of its answer."""
    fields: Any = await redis.hgetall(keys.turn(part))  # bytes
    name = fields.get(b"answer")
    answer: Any = await redis.hget(keys.item, name) if name else None
    return fields, answer


async def read_input(redis: Redis, keys: Keys, part: str) -> list[Item]:
    """An ended turn's input, without items that were erased."""
    packed: Any = await redis.hget(keys.turn(part), "end")
    names = codec.decode_end(packed).inputs if packed else []
    blobs: Any = await redis.hmget(keys.item, names) if names else []
    return [codec.decode_item(blob) for blob in blobs if blob is not None]


async def pointed_turns(redis: Redis, keys: Keys, cursor: int) -> tuple[int, list[str]]:
    """Own parts of the turns that a queue may point to, of the index behind a cursor; 0 is its beginning and its end.

    While the index changes, a turn may come twice.
    """
    found: Any = await redis.sscan(keys.index, cursor, match=f"{TURN_MEMBER}*", count=_SLICE)  # bytes
    cursor, members = found
    parts = [member.decode().removeprefix(TURN_MEMBER) for member in members]
    async with redis.pipeline(transaction=False) as pipe:
        for part in parts:
            pipe.hget(keys.turn(part), "state")
        states = await execute(pipe)
    pointed = [
        part for part, state in zip(parts, states, strict=True) if state and TurnState(state.decode()).is_pointed
    ]
    return cursor, pointed


async def is_erased(redis: Redis, keys: Keys, part: str) -> bool:
    """Whether a turn, or all of its root, has a tombstone."""
    marks: Any = await redis.smismember(keys.gone, ["*", TURN_MEMBER + part])
    return any(marks)


async def ping(redis: Redis) -> None:
    """One round trip."""
    await redis.ping()


async def _line_of(redis: Redis, keys: Keys, part: str) -> str:
    """The name of a turn's line; without such a turn, of any line, for there is nothing to do on it."""
    name: Any = await redis.hget(keys.turn(part), "line")
    return name.decode() if name else MAIN_LINE


async def _erase_once(redis: Redis, keys: Keys, head: Sequence[Arg], members: Collection[bytes]) -> list[bytes]:
    names = [keys.gone, keys.line(), keys.items(), keys.item, keys.index]
    names += [key for member in members for key in _keys_of(keys, member.decode())]
    outcome: list[bytes] = await lines.ERASE.run(redis, names, [*head, *members])
    return outcome


def _keys_of(keys: Keys, member: str) -> list[str]:
    """The keys that a member of the index stands for, besides those that every root has."""
    kind, _, name = member.partition(":")
    if kind == "turn":
        return [keys.turn(name), keys.journal(name)]
    return [keys.line(name), keys.items(name)] if name != MAIN_LINE else []


def _begin_args(begin: Begin, part: str, seen: str, history_ttl_s: int) -> list[Arg]:
    return [
        begin.turn,
        seen,
        begin.owner,
        begin.base_version,
        _ms(begin.lease_s),
        _ms(begin.deadline_s),
        codec.encode(msgspec.structs.replace(begin.request, input=[])),
        int(begin.new_line),
        history_ttl_s,
        _ms(TURN_SPARE_S),
        codec.encode({}),
        _LINE_MEMBER + begin.line,
        TURN_MEMBER + part,
        begin.state.value,
        begin.line,
        codec.encode(begin.request.input),
        begin.fork.last if begin.fork else "",
        _own(begin.ttl_s),
    ]


def item_args(items: Sequence[Item]) -> list[Arg]:
    """Ids and blobs by turns."""
    return [arg for item in items for arg in (item.id, codec.encode(item))]


def _own(ttl_s: int | None) -> Arg:
    """A line's own history ttl; '' where it has none."""
    return "" if ttl_s is None else ttl_s


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
