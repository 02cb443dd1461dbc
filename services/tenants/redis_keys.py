"""Keys and shares in Redis or Valkey, in four keys of one slot and without a TTL: a key works until it is revoked.

Records never change, so a revocation is an entry of its own, and so is each part of a tenant's share. Every change
counts ``version`` up in the same step; gateways watch that number, not the keys.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final, Protocol, TypeVar, Unpack

import msgspec
from redis.asyncio import Redis

from cluster.errors import InvalidRequestError, NotFoundError
from services.tenants.keys import KeyInfo, KeyRecord, make_key
from services.tenants.share import PARTS, Share, ShareChange, check_change, decode_share
from services.tenants.tenant import check_tenant_id

RECORDS: Final = "c1:{keys}:records"  # hash: key id → msgpack of the key as made. No TTL
REVOKED: Final = "c1:{keys}:revoked"  # hash: key id → unix seconds. No TTL
VERSION: Final = "c1:{keys}:version"  # counter. No TTL
TENANTS: Final = "c1:{keys}:tenants"  # hash: '<tenant>:<part of its share>' → number as text. No TTL

T = TypeVar("T")

# KEYS are the same for all: 1 records, 2 revoked, 3 version, 4 tenants. Each may be sent twice: a key that is there
# already was made by this very call, and a share is set to what it is.
_ADD: Final = """
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
-- ARGV 1 key id
-- Replies 'ok' or 'absent'
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 'absent' end
redis.call('HSETNX', KEYS[2], ARGV[1], redis.call('TIME')[1])
redis.call('INCR', KEYS[3])
return 'ok'
"""
_SHARE: Final = """
-- ARGV 1 how many fields to change, then field and value ('' unsets it) of each, then the fields to reply
-- Replies these as they are now
local first = 2 + 2 * ARGV[1]
for i = 2, first - 1, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[4], ARGV[i])
  else redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1]) end
end
redis.call('INCR', KEYS[3])
return redis.call('HMGET', KEYS[4], unpack(ARGV, first))
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
        """The record of one key, with its tenant's share. Raises ConfigurationError."""
        blob, revoked, share = await self._link.call(lambda redis: _read_one(redis, key_id))
        if blob is None:
            return None
        record = _record(key_id, blob, revoked)
        return replace(record, share=decode_share(record.info.tenant, dict(zip(PARTS, share, strict=True))))

    async def version(self) -> int:
        """A number that differs after each change."""
        return int(await self._link.call(_read_version) or 0)

    async def set_share(self, tenant: str, **change: Unpack[ShareChange]) -> Share:
        """Change parts of a tenant's share. Raises InvalidRequestError or ConfigurationError."""
        check_tenant_id(tenant)
        check_change(change)
        values = ["" if value is None else str(value) for value in change.values()]
        pairs = chain.from_iterable(zip(_fields(tenant, change), values, strict=True))
        now = await self._run(_SHARE, [str(len(change)), *pairs, *_fields(tenant, PARTS)])
        return decode_share(tenant, dict(zip(PARTS, now, strict=True)))

    async def shares(self) -> dict[str, Share]:
        """What tenants were given, by their ids. Raises ConfigurationError."""
        stored = await self._link.call(_read_shares)
        given: dict[str, dict[str, bytes]] = {}
        for field, value in sorted(stored.items()):
            tenant, _, part = field.decode().partition(":")
            given.setdefault(tenant, {})[part] = value
        return {tenant: decode_share(tenant, parts) for tenant, parts in given.items()}

    async def _add(self, tenant: str, name: str, *, replaces: str) -> tuple[KeyInfo, str]:
        record, text = make_key(tenant, name, created_at=int(time.time()))
        stored = _Stored(tenant=tenant, name=name, created_at=record.info.created_at, digest=record.digest)
        outcome = await self._run(_ADD, [record.info.id, _encode(stored), replaces])
        if outcome != b"ok":
            raise InvalidRequestError(f"Key {replaces} is revoked already.", param="key_id")
        return record.info, text

    async def _run(self, script: str, args: Sequence[str | bytes]) -> Any:
        return await self._link.call(lambda redis: redis.eval(script, 4, RECORDS, REVOKED, VERSION, TENANTS, *args))


def _fields(tenant: str, parts: Iterable[str]) -> list[str]:
    """Where the parts of a tenant's share are, in ``TENANTS``."""
    return [f"{tenant}:{part}" for part in parts]


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
    """Record, revocation and share. The tenant is known from the record alone, so the share is a second round trip.

    It is made for an unknown key too: the time of an answer does not tell strangers which ids exist.
    """
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hget(RECORDS, key_id)
        pipe.hget(REVOKED, key_id)
        blob, revoked = await pipe.execute()
    tenant = _decode(blob).tenant if blob else ""
    return blob, revoked, await redis.hmget(TENANTS, _fields(tenant, PARTS))


async def _read_all(redis: Redis) -> Any:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.hgetall(RECORDS)
        pipe.hgetall(REVOKED)
        return await pipe.execute()


async def _read_version(redis: Redis) -> Any:
    return await redis.get(VERSION)


async def _read_shares(redis: Redis) -> Any:
    return await redis.hgetall(TENANTS)
