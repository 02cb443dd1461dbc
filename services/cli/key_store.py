"""The key store of a running cluster, as the operator's commands reach it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.cli.options import StateDir
from services.cli.redis_link import Result, with_link
from services.tenants.redis_keys import RedisKeyStore


def with_key_store(
    redis_url: str | None, state_dir: StateDir, use: Callable[[RedisKeyStore], Awaitable[Result]]
) -> Result:
    """What ``use`` makes of the store. Raises as ``with_link`` does."""
    return with_link(redis_url, state_dir, lambda link: use(RedisKeyStore(link)))
