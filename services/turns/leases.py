"""The token that holds a lease."""

from __future__ import annotations

import secrets

_OWNER_BYTES = 16


def new_owner() -> str:
    """128 random bits, hex."""
    return secrets.token_hex(_OWNER_BYTES)
