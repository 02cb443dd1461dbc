"""The KeyStore of one process, for tests and for a gateway without Redis."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Unpack

from cluster.errors import InvalidRequestError, NotFoundError
from services.tenants.keys import KeyInfo, KeyRecord, make_key
from services.tenants.share import Share, ShareChange, check_change, share_of
from services.tenants.tenant import check_tenant_id


class MemoryKeyStore:
    """See ``KeyStore``."""

    def __init__(self) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._parts: dict[str, dict[str, Any]] = {}  # of shares, by tenant id
        self._version = 0

    async def create(self, tenant: str, name: str) -> tuple[KeyInfo, str]:
        """Make a key; its text is shown once. Raises InvalidRequestError."""
        record, text = make_key(tenant, name, created_at=int(time.time()))
        self._records[record.info.id] = record
        self._version += 1
        return record.info, text

    async def list(self) -> list[KeyInfo]:
        """All keys, revoked ones too, oldest first."""
        infos = [record.info for record in self._records.values()]
        return sorted(infos, key=lambda info: (info.created_at, info.id))

    async def revoke(self, key_id: str) -> None:
        """Make a key useless; revoking it again changes nothing. Raises NotFoundError."""
        record = self._record(key_id)
        if record.info.revoked_at is None:
            self._records[key_id] = replace(record, info=replace(record.info, revoked_at=int(time.time())))
        self._version += 1

    async def rotate(self, key_id: str) -> tuple[KeyInfo, str]:
        """Replace a key by a new one. Raises NotFoundError, or InvalidRequestError for a revoked key."""
        old = self._record(key_id).info
        if old.revoked_at is not None:
            raise InvalidRequestError(f"Key {key_id} is revoked already.", param="key_id")
        await self.revoke(key_id)
        return await self.create(old.tenant, old.name)

    async def find(self, key_id: str) -> KeyRecord | None:
        """The record of one key, with its tenant's share."""
        record = self._records.get(key_id)
        return record and replace(record, share=share_of(self._parts.get(record.info.tenant, {})))

    async def set_share(self, tenant: str, **change: Unpack[ShareChange]) -> Share:
        """Change parts of a tenant's share. Raises InvalidRequestError."""
        check_tenant_id(tenant)
        check_change(change)
        parts: dict[str, Any] = {**self._parts.get(tenant, {}), **change}
        self._parts[tenant] = {part: value for part, value in parts.items() if value is not None}
        self._version += 1
        return share_of(parts)

    async def shares(self) -> dict[str, Share]:
        """What tenants were given, by their ids."""
        return {tenant: share_of(parts) for tenant, parts in self._parts.items() if parts}

    async def version(self) -> int:
        """A number that differs after each change."""
        return self._version

    def _record(self, key_id: str) -> KeyRecord:
        record = self._records.get(key_id)
        if record is None:
            raise NotFoundError("key", key_id)
        return record
