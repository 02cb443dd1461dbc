"""``Idempotency-Key``: a request that is sent again is done once."""

from __future__ import annotations

import hashlib
from typing import Final

from fastapi import Request

from cluster.errors import InvalidRequestError
from services.turns.events import Idempotency

_HEADER: Final = "Idempotency-Key"
_MAX_LENGTH: Final = 255


async def idempotency_of(request: Request) -> Idempotency | None:
    """The request's key with a digest of its body; None without one.

    Raises:
        InvalidRequestError: the key is empty, too long or not plain text.
    """
    key = request.headers.get(_HEADER)
    if key is None:
        return None
    if not (0 < len(key) <= _MAX_LENGTH and key.isascii() and key.isprintable()):
        message = f"{_HEADER}: Send 1 to {_MAX_LENGTH} printable ASCII characters."
        raise InvalidRequestError(message, param=_HEADER)
    return Idempotency(key, hashlib.blake2b(await request.body(), digest_size=16).hexdigest())
