"""What the Redis store sends: arguments of the scripts, in their order, and operations of more than one command.

An operation of several commands is atomic only inside each script; the scripts are written so that what happens in
between is answered (``look``, ``more``), not overlooked.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from services.conversations import codec, ids
from services.conversations.items import answer_id
from services.conversations.keys import GONE_TTL_S, JOURNAL_END_S, JOURNAL_SPARE_S, MAIN_LINE, TURN_SPARE_S, Keys
from services.conversations.records import Item
from services.conversations.redis_link import execute
from services.conversations.scripts import Arg, lines, turns
from services.conversations.store import Begin, Commit, Note, Reply, Verdict

_LINE_MEMBER: Final = f"line:{MAIN_LINE}"  # members of the index and of the tombstone set
_TURN_MEMBER: Final = "turn:"
_MAX_LOOKS: Final = 4  # a line cannot change its active turn more often within one call, short of a stampede

NoteCall = tuple[list[str], list[Arg]]  # KEYS and ARGV


def create_args(metadata: Mapping[str, str], items: Sequence[Item], history_ttl_s: int) -> list[Arg]:
    """ARGV of CREATE."""
    return [codec.encode(dict(metadata)), history_ttl_s, _LINE_MEMBER, *_item_args(items)]


def claim_args(owner: str, lease_s: float, part: str) -> list[Arg]:
    """ARGV of CLAIM."""
    return [owner, _ms(lease_s), _TURN_MEMBER + part]


def commit_args(commit: Commit, part: str, *, history_ttl_s: int) -> list[Arg]:
    """ARGV of COMMIT."""
    return [
        commit.owner,
        commit.state.value,
        commit.base_version,
        commit.total,
        commit.finish,
        codec.encode(dict(commit.usage)),
        commit.error_code,
        commit.error_message,
        codec.encode(commit.hint) if commit.hint else b"",
        history_ttl_s,
        JOURNAL_END_S,
        commit.turn,
        _TURN_MEMBER + part,
        answer_id(commit.items),
        *_item_args(commit.items),
    ]


async def begin(redis: Redis, begin: Begin, *, history_ttl_s: int) -> Reply:
    """Run BEGIN; where another turn is active, run it again with that turn's record among its keys."""
    keys, part = Keys.of_turn(begin.tenant, begin.turn)
    seen, seen_part = "", part
    for _ in range(_MAX_LOOKS):
        names = [keys.line, keys.turn(part), keys.index, keys.gone, keys.items, keys.item, keys.turn(seen_part)]
        outcome = await turns.BEGIN.run(redis, names, _begin_args(begin, part, seen, history_ttl_s))
        if outcome[0] != b"look":
            return codec.decode_reply(outcome)
        seen = outcome[2].decode()
        seen_part = ids.response_parts(seen)[1]
    return Reply(Verdict.BUSY, turn=seen)


def note_call(note: Note) -> NoteCall:
    """KEYS and ARGV of NOTE."""
    keys, part = Keys.of_turn(note.tenant, note.turn)
    names = [keys.turn(part), keys.journal(part), keys.gone]
    segment = codec.pack_ids(note.ids)
    return names, [note.owner, note.start, segment, _ms(note.lease_s), _TURN_MEMBER + part, _ms(JOURNAL_SPARE_S)]


async def run_notes(redis: Redis, calls: Sequence[NoteCall]) -> list[Reply]:
    """All notes in one pipeline. A server that does not know the script yet is sent it, and then all notes again."""
    try:
        return await _pipeline_notes(redis, calls)
    except NoScriptError:
        await turns.NOTE.run(redis, *calls[0])
        return await _pipeline_notes(redis, calls)


async def erase(redis: Redis, keys: Keys) -> bool:
    """Erase all of a root; False when there was nothing."""
    name = secrets.token_hex(8)
    members: Any = await redis.smembers(keys.index)  # bytes
    outcome = await _erase_once(redis, keys, name, members)
    existed = outcome[0] != b"absent"
    while outcome[0] == b"more":
        outcome = await _erase_once(redis, keys, name, outcome[1:])
    return existed


async def read_head(redis: Redis, keys: Keys) -> tuple[bytes | None, bytes | None]:
    """``created`` and ``meta`` of a line; None when there is no such line."""
    created, meta = cast("list[Any]", await redis.hmget(keys.line, ["created", "meta"]))
    return created, meta


async def read_turn(redis: Redis, keys: Keys, part: str) -> tuple[dict[bytes, bytes], bytes | None]:
    """A record's fields (none when absent) and the blob of its answer."""
    fields: Any = await redis.hgetall(keys.turn(part))  # bytes
    name = fields.get(b"answer")
    answer: Any = await redis.hget(keys.item, name) if name else None
    return fields, answer


async def read_journal(redis: Redis, keys: Keys, part: str) -> tuple[bool, list[codec.Entry]]:
    """Whether the record exists, and the journal's entries."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.exists(keys.turn(part))
        pipe.xrange(keys.journal(part))
        exists, entries = await execute(pipe)
    return bool(exists), entries


async def ping(redis: Redis) -> None:
    """One round trip."""
    await redis.ping()


async def _pipeline_notes(redis: Redis, calls: Sequence[NoteCall]) -> list[Reply]:
    async with redis.pipeline(transaction=False) as pipe:
        for names, args in calls:
            pipe.evalsha(turns.NOTE.sha, len(names), *names, *args)
        return [codec.decode_reply(raw) for raw in await execute(pipe)]


async def _erase_once(redis: Redis, keys: Keys, name: str, members: Collection[bytes]) -> list[bytes]:
    turn_members = [member.decode() for member in members if member.startswith(_TURN_MEMBER.encode())]
    parts = [member.removeprefix(_TURN_MEMBER) for member in turn_members]
    of_turns = [key for part in parts for key in (keys.turn(part), keys.journal(part))]
    names = [keys.gone, keys.line, keys.items, keys.item, keys.index, *of_turns]
    outcome: list[bytes] = await lines.ERASE.run(redis, names, [GONE_TTL_S, name, *members])
    return outcome


def _begin_args(begin: Begin, part: str, seen: str, history_ttl_s: int) -> list[Arg]:
    return [
        begin.turn,
        seen,
        begin.owner,
        begin.base_version,
        _ms(begin.lease_s),
        _ms(begin.deadline_s),
        codec.encode(begin.request),
        int(begin.new_line),
        history_ttl_s,
        _ms(TURN_SPARE_S),
        codec.encode({}),
        _LINE_MEMBER,
        _TURN_MEMBER + part,
    ]


def _item_args(items: Sequence[Item]) -> list[Arg]:
    return [arg for item in items for arg in (item.id, codec.encode(item))]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
