"""What the Redis store does in more than one command.

Such an operation is atomic only inside each script; the scripts are written so that what happens in
between is answered (``look``, ``more``), not overlooked.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis

from cluster.protocol import FinishReason
from services.conversations import codec
from services.conversations.keys import GONE_TTL_S, MAIN_LINE, MAX_TRIES, Keys
from services.conversations.records import Item, TurnState
from services.conversations.redis_args import TURN_MEMBER, begin_call, ms
from services.conversations.redis_link import execute
from services.conversations.scripts import Arg, lines, turns, visits
from services.conversations.store import Begin, Reply

_LAST_TURN: Final = 2  # ERASE_TURN: nothing else is left
_SLICE: Final = 1000  # members of an index that are read in one call, about
_MAX_LOOKS: Final = 4  # a line cannot change its active turn more often within one call, short of a stampede


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

    def attempt(seen: str) -> Awaitable[Any]:
        return turns.BEGIN.run(redis, *begin_call(begin, seen, history_ttl_s=history_ttl_s))

    return codec.decode_reply(await looking(attempt))


async def claim(redis: Redis, keys: Keys, part: str, *, owner: str, lease_s: float) -> Reply:
    """Run CLAIM on the line that the turn stands on, which never changes."""
    names = [keys.turn(part), keys.line(await _line_of(redis, keys, part)), keys.gone]
    args: list[Arg] = [owner, ms(lease_s), TURN_MEMBER + part, MAX_TRIES]
    return codec.decode_reply(await turns.CLAIM.run(redis, names, args))


async def cancel(redis: Redis, keys: Keys, part: str, turn: str, *, history_ttl_s: int) -> bytes | None:
    """Run CANCEL; the turn's state, None when there is no such turn."""
    name = await _line_of(redis, keys, part)
    args: list[Arg] = [turn, history_ttl_s, codec.encode(codec.End(finish=FinishReason.ABORTED))]
    names = [keys.turn(part), keys.line(name), keys.items(name)]
    state: bytes | None = await visits.CANCEL.run(redis, names, args)
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
    outcome = await visits.ERASE_TURN.run(redis, names, args)
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
