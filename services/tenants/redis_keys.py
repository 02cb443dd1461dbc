"""Keys in Redis or Valkey, in three keys of one slot and without a TTL: a key works until it is revoked.

Records never change, so a revocation is an entry of its own. Every change counts ``version`` up in the same step;
gateways watch that number, not the keys.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec
from redis.asyncio import Redis

from cluster.errors import InvalidRequestError, NotFoundError
from services.tenants.keys import KeyInfo, KeyRecord, make_key

RECORDS: Final = "c1:{keys}:records"  # hash: key id → msgpack of the key as made. No TTL
REVOKED: Final = "c1:{keys}:revoked"  # hash: key id → unix seconds. No TTL
VERSION: Final = "c1:{keys}:version"  # counter. No TTL

T = TypeVar("T")

# Both scripts may be sent twice: a field that is there already was written by this very call.
_ADD: Final = """
-- KEYS 1 records, 2 revoked, 3 version
-- ARGV 1 new key id, 2 its record, 3 id of the key it replaces or ''
-- Replies 'ok', 'absent' (nothing to replace) or 'revoked' (what to replace is)
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 'ok' end
if ARGV[3] ~= '' then
  if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 0 then return 'absent' end
  if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then return 'revoked' end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], ARGV[3], redis.call('TIME')[1]) end
redis.call('INCR', KEYS[3])
return 'ok'
"""
_REVOKE: Final = """
-- KEYS 1 records, 2 revoked, 3 version
-- ARGV 1 key id
-- Replies 'ok' or 'absent'
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'absent' end
redis.call('HSETNX', KEYS[2], ARGV[1], redis.call('TIME')[1])
redis.call('INCR', KEYS[3])
return 'ok'
"""


class Link(Protocol):
    """A process's shared connection; ``services.conversations.redis_link.RedisLink`` is one."""

    async def call(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """Run an operation. Raises StoreUnavailableError within two seconds."""
        ...


class _Stored(msgspec.Struct, frozen=True):
    tenant: str
    name: str
    created_at: int
    digest: bytes


_decode = msgspec.msgpack.Decoder(_Stored).decode
_encode = msgspec.msgpack.Encoder().encode


class RedisKeyStore:
    """See ``KeyStore``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def create(self, tenant: str, name: str) -> tuple[KeyInfo, str]:
        """Make a key; its text is shown once. Raises InvalidRequestError."""
        return await self._add(tenant, name, replaces="")

    async def list(self) -> list[KeyInfo]:
        """All keys, revoked ones too, oldest first."""
        records, revoked = await self._link.call(_read_all)
        infos = [_record(key_id.decode(), blob, revoked.get(key_id)).info for key_id, blob in records.items()]
        return sorted(infos, key=lambda info: (info.created_at, info.id))

    async def revoke(self, key_id: str) -> None:
        """Make a key useless; revoking it again changes nothing. Raises NotFoundError."""
        if await self._run(_REVOKE, [key_id]) == b"absent":
            raise NotFoundError("key", key_id)

    async def rotate(self, key_id: str) -> tuple[KeyInfo, str]:
        """Replace a key by a new one. Raises NotFoundError, or InvalidRequestError for a revoked key."""
        old = await self.find(key_id)
        if old is None:
            raise NotFoundError("key", key_id)
        return await self._add(old.info.tenant, old.info.name, replaces=key_id)

    async def find(self, key_id: str) -> KeyRecord | None:
        """The record of one key."""
        blob, revoked = await self._link.call(lambda redis: _read_one(redis, key_id))
        return None if blob is None else _record(key_id, blob, revoked)

    async def version(self) -> int:
        """A number that differs after each change."""
        return int(await self._link.call(_read_version) or 0)

    async def _add(self, tenant: str, name: str, *, replaces: str) -> tuple[KeyInfo, str]:
        record, text = make_key(tenant, name, created_at=int(time.time()))
        stored = _Stored(tenant=tenant, name=name, created_at=record.info.created_at, digest=record.digest)
        outcome = await self._run(_ADD, [record.info.id, _encode(stored), replaces])
        if outcome != b"ok":
            raise InvalidRequestError(f"Key {replaces} is revoked already.", param="key_id")
        return record.info, text

    async def _run(self, script: str, args: Sequence[str | bytes]) -> Any:
        return await self._link.call(lambda redis: redis.eval(script, 3, RECORDS, REVOKED, VERSION, *args))


def _record(key_id: str, blob: bytes, revoked: bytes | None) -> KeyRecord:
    stored = _decode(blob)
    info = KeyInfo(
        id=key_id,
        tenant=stored.tenant,
        name=stored.name,
        created_at=stored.created_at,
        revoked_at=int(revoked) if revoked else None,
    )
    return KeyRecord(info=info, digest=stored.digest)


async def _read_one(redis: Redis, key_id: str) -> Any:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hget(RECORDS, key_id)
        pipe.hget(REVOKED, key_id)
        return await pipe.execute()


async def _read_all(redis: Redis) -> Any:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hgetall(RECORDS)
        pipe.hgetall(REVOKED)
        return await pipe.execute()


async def _read_version(redis: Redis) -> Any:
    return await redis.get(VERSION)
