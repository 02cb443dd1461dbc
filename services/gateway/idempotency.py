"""``Idempotency-Key``: a request that is sent again is done once."""

from __future__ import annotations

import hashlib

from fastapi import Request

from services.turns.events import Idempotency


async def idempotency_of(request: Request, key: str | None) -> Idempotency | None:
    """The request's key with a digest of its body, byte for byte; None without a key."""
    if key is None:
        return None
    return Idempotency(key, hashlib.blake2b(await request.body(), digest_size=16).hexdigest())
