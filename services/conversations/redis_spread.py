"""One script for many calls, which may be of different servers of a Cluster: those that answer are heard."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import SlotNotCoveredError

from cluster.errors import StoreUnavailableError
from services.conversations.redis_link import RedisLink
from services.conversations.scripts import Call, Script, run_many


async def run_spread(link: RedisLink, script: Script, calls: Sequence[Call]) -> list[Any]:
    """One reply per call, in their order; None where the call's server does not answer though others do.

    All servers are asked at once. Only when that fails each is asked by itself, one after another, because redis-py
    closes the connections to all of a Cluster's servers when one of them is away.

    Raises:
        StoreUnavailableError: no server answers.
    """
    try:
        return await link.call(_run(script, calls))
    except StoreUnavailableError:
        groups = await link.call(lambda redis: _by_server(redis, calls))
        if len(groups) < 2:
            raise
    replies: list[Any] = [None] * len(calls)
    for places in groups:
        with contextlib.suppress(StoreUnavailableError):
            found = await link.call(_run(script, [calls[place] for place in places]))
            for place, reply in zip(places, found, strict=True):
                replies[place] = reply
    return replies


def _run(script: Script, calls: Sequence[Call]) -> Callable[[Redis], Awaitable[list[Any]]]:
    return lambda redis: run_many(redis, script, calls)


async def _by_server(redis: object, calls: Sequence[Call]) -> list[list[int]]:
    """Places of the calls, by the server that has their slot as far as is known; without a Cluster, one group."""
    if not isinstance(redis, RedisCluster):
        return [list(range(len(calls)))]
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (keys, _) in enumerate(calls):
        groups[_server(redis, keys[0])].append(place)
    return list(groups.values())


def _server(redis: RedisCluster, key: str) -> str:
    try:
        node = redis.get_node_from_key(key)
    except SlotNotCoveredError:
        return ""
    return node.name if node else ""
