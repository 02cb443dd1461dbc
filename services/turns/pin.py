"""Which turns want the same replica: a key that equal beginnings share.

The key is a hash that starts with the tenant, so that it neither tells what somebody wrote nor lets one tenant aim at
another's replica. It decides placement only; a wrong key costs a prefill.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from services.turns.events import Message, Role
from services.turns.hashing import add_text

_DIGEST_SIZE = 16


def conversation_key(tenant: str, root: str) -> str:
    """The pin key of a stored conversation; branches of one root share their prefix, hence the key. Hex."""
    return _key("root", tenant, root)


def stateless_key(tenant: str, messages: Sequence[Message], cache_key: str | None) -> str:
    """The pin key of a history that comes with its request. Hex.

    ``cache_key`` (OpenAI's ``prompt_cache_key``) where the caller gave one, else the first system and the first user
    message: every turn of one chat has them in common, and chats with the same instructions differ by the second.
    """
    if cache_key is not None:
        return _key("cache_key", tenant, cache_key)
    return _key("messages", tenant, _first(messages, Role.SYSTEM), _first(messages, Role.USER))


def _first(messages: Sequence[Message], role: Role) -> str:
    return next((message.text for message in messages if message.role is role), "")


def _key(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    for part in parts:
        add_text(digest, part)
    return digest.hexdigest()
