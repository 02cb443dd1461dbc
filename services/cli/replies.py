"""What a gateway says when it refuses."""

from __future__ import annotations

import httpx


def message_of(response: httpx.Response) -> str:
    """The error's own sentence, or the bare status where something else than a gateway has answered."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
