"""From a bearer key to its tenant, thousands of times a second, without asking Redis each time.

Answers are cached for a minute, but a change, of a key or of its tenant's share, takes effect within two seconds: a
task polls the store's version every second and drops the cache when it differs. Without that task nothing is cached,
so a revoked key cannot live on by accident. While the store is away, keys that were good within the last ten minutes
stay good, with the shares they had.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cluster.errors import InvalidKeyError, StoreUnavailableError
from services.tenants.keys import KeyRecord, KeyStore, digest_of, make_key, split_key
from services.tenants.tenant import Tenant

FRESH_S: Final = 60.0
STALE_S: Final = 600.0
POLL_S: Final = 1.0
MAX_GOOD: Final = 16_384
MAX_BAD: Final = 4_096  # apart from the good ones, so that random keys cannot push those out

_MESSAGE: Final = "The API key is not valid. Send a valid key as 'Authorization: Bearer sk-…'."


@dataclass(frozen=True, slots=True)
class _Entry:
    tenant: Tenant | None  # None: not a valid key
    at: float  # monotonic seconds


class Authenticator:
    """Finds the tenant of a key.

    Args:
        store: where the keys live.
        clock: monotonic seconds; tests hand in their own.
        poll_s: seconds between two looks at the store's version.
    """

    def __init__(self, store: KeyStore, *, clock: Callable[[], float] = time.monotonic, poll_s: float = POLL_S) -> None:
        self._store = store
        self._clock = clock
        self._poll_s = poll_s
        self._good = _Cache(MAX_GOOD)
        self._bad = _Cache(MAX_BAD)
        self._version: int | None = None
        self._drops = 0  # a lookup that began before a drop is not cached after it
        self._is_away = False
        self._poller: asyncio.Task[None] | None = None
        self._decoy, _ = make_key("decoy", "decoy", created_at=0)

    async def start(self) -> None:
        """Begin to watch for changes; needed for caching. A store that is away does not hinder the start."""
        await self._look()
        self._poller = asyncio.create_task(self._poll_forever(), name="key-version-poller")

    async def stop(self) -> None:
        """End the polling task. Raises what ended it before its time, if anything did."""
        if self._poller is not None:
            self._poller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poller
            self._poller = None

    async def authenticate(self, bearer: str | None) -> Tenant:
        """The tenant of a key, given as the text behind ``Bearer``.

        Missing, malformed, unknown, wrong and revoked keys get the same error after the same hashing and comparing.
        Only well-formed ones are looked up: their shape is public, so the difference in time tells nothing.

        Raises:
            InvalidKeyError: it is none of a tenant's keys, or a revoked one.
            StoreUnavailableError: the store is away and the key is not remembered.
        """
        name = digest_of(bearer or "")  # the text itself is not kept
        cached = self._cached(name)
        tenant = cached.tenant if cached else await self._look_up(name, bearer or "")
        if tenant is None:
            raise InvalidKeyError(_MESSAGE)
        return tenant

    def _cached(self, name: bytes) -> _Entry | None:
        if not self._is_polling():
            return None
        entry = self._good.get(name) or self._bad.get(name)
        if entry is None or self._clock() - entry.at < FRESH_S:
            return entry
        # Asking a store known to be away would cost every request the full timeout.
        return entry if self._is_away and self._may_serve(entry) else None

    async def _look_up(self, name: bytes, bearer: str) -> Tenant | None:
        drops = self._drops
        try:
            tenant = await self._ask(bearer)
        except StoreUnavailableError:
            entry = self._good.get(name)
            if entry is None or not self._may_serve(entry):
                raise
            return entry.tenant
        if drops == self._drops and self._is_polling():
            self._remember(name, tenant)
        return tenant

    async def _ask(self, bearer: str) -> Tenant | None:
        parts = split_key(bearer)
        record = await self._store.find(parts[0]) if parts else None
        return _admit(record, self._decoy, parts[1] if parts else bearer)

    def _remember(self, name: bytes, tenant: Tenant | None) -> None:
        kept, other = (self._bad, self._good) if tenant is None else (self._good, self._bad)
        other.forget(name)
        kept.put(name, _Entry(tenant, self._clock()))

    def _may_serve(self, entry: _Entry) -> bool:
        return entry.tenant is not None and self._clock() - entry.at < STALE_S

    def _is_polling(self) -> bool:
        return self._poller is not None and not self._poller.done()

    async def _poll_forever(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self._look()

    async def _look(self) -> None:
        """Compare the store's version, and drop everything when it has changed."""
        try:
            version = await self._store.version()
        except StoreUnavailableError:
            self._is_away = True
            return
        self._is_away = False
        if version != self._version:
            self._version = version
            self._drops += 1
            self._good.clear()
            self._bad.clear()


def _admit(record: KeyRecord | None, decoy: KeyRecord, secret: str) -> Tenant | None:
    """The tenant of a record that admits the secret; without a record the decoy is compared, for equal time."""
    is_admitted = (record or decoy).admits(secret)
    if record is None or not is_admitted:
        return None
    return Tenant(id=record.info.tenant, name=record.info.tenant, share=record.share)


class _Cache:
    """Least recently used first out."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def get(self, name: bytes) -> _Entry | None:
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
        return entry

    def put(self, name: bytes, entry: _Entry) -> None:
        self._entries[name] = entry
        self._entries.move_to_end(name)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def forget(self, name: bytes) -> None:
        self._entries.pop(name, None)

    def clear(self) -> None:
        self._entries.clear()
