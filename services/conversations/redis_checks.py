"""What is checked of an operator's servers before anything relies on them.

A server that evicts keys or is too old would lose accepted turns one day, so it is refused; one that keeps nothing on
disk may be meant so, and is warned of. Judging is apart from asking: ``problem`` and ``warnings`` are pure.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import ResponseError

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.conversations.acl import CHECKS
from services.conversations.redis_link import RedisLink, is_away
from services.conversations.redis_url import Topology, parse_url

OLDEST: Final = {"Redis": (7, 0), "Valkey": (7, 2)}

# One key written and removed, and each kind of key read: the rights that no server tells a user it has.
_PROBE: Final = """
redis.call('TIME')
redis.call('SET', KEYS[1], '', 'PX', 1000)
redis.call('UNLINK', KEYS[1])
for _, read in ipairs({'EXISTS', 'GET', 'HGETALL', 'LLEN', 'SCARD', 'ZCARD', 'XLEN'}) do redis.call(read, KEYS[1]) end
"""
_PROBE_KEY: Final = "c1:{probe}"


@dataclass(frozen=True, slots=True)
class Server:
    """One server as it describes itself. None: it may not be asked.

    Attributes:
        name: its place.
        info: what INFO says.
        save: its points for writing a snapshot; empty: none.
    """

    name: str
    info: Mapping[str, Any] | None
    save: str | None


async def check_store(url: str) -> list[str]:
    """Look at every server that a URL leads to (of a Cluster: every primary).

    Returns:
        Warnings, each a sentence.

    Raises:
        ConfigurationError: the URL, its user or a server cannot be used; says what to change.
        StoreUnavailableError: nobody answers there now.
    """
    address = parse_url(url)
    link = RedisLink(url)
    try:
        servers = await _ask_all(link, address.where)
        for server in servers:
            if wrong := problem(server, address.topology):
                raise ConfigurationError(wrong)
        await _probe(link)
    except StoreUnavailableError as error:
        raise StoreUnavailableError(
            f"The store at {address.where} does not serve: {_reason(error.__cause__)}.",
            retry_after_s=error.retry_after_s,
        ) from error
    finally:
        await link.close()
    return list(dict.fromkeys(warning for server in servers for warning in warnings(server)))


def problem(server: Server, topology: Topology) -> str:
    """Why a server is refused, and what to do; empty: it is not."""
    info, name = server.info, f"The store at {server.name}"
    if info is None:
        return ""
    product, version = _release(info)
    if version < OLDEST[product]:
        found = ".".join(map(str, version)) or "of no version"
        return f"{name} runs {product} {found}; it has to be Redis 7.0, Valkey 7.2, or later."
    if info.get("cluster_enabled") and topology != "cluster":
        return f"{name} is a node of a Cluster; write its URL as redis+cluster:// (or rediss+cluster://)."
    if info.get("role") == "slave":
        return f"{name} is a replica; name its primary, or let Sentinel find it with redis+sentinel://."
    if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
        return (
            f"{name} would drop conversations when its memory is full (maxmemory-policy {info['maxmemory_policy']}); "
            "set maxmemory-policy noeviction."
        )
    return ""


def warnings(server: Server) -> list[str]:
    """What the operator should know of a server that is used all the same."""
    info, name = server.info, f"The store at {server.name}"
    if info is None:
        return [f"{name} cannot be checked: its user may not run INFO; grant {CHECKS}."]
    if info.get("aof_enabled"):
        return []
    if server.save is None:
        return [f"{name} has no append-only file, and whether it writes snapshots cannot be checked; grant {CHECKS}."]
    if server.save:
        return [f"{name} only writes snapshots: a crash loses what came after the last one; set appendonly yes."]
    return [f"{name} keeps nothing on disk: all conversations end with its process; set appendonly yes."]


def _release(info: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    product = "Valkey" if "valkey_version" in info else "Redis"
    numbers = re.findall(r"\d+", str(info.get(f"{product.lower()}_version")))
    return product, tuple(map(int, numbers[:2]))


def _reason(cause: BaseException | None) -> str:
    if isinstance(cause, MasterNotFoundError):  # its own words are long, and of objects
        return "no Sentinel both lets us in and knows a primary of this name"
    return (str(cause) or type(cause).__name__).rstrip(".")


async def _ask_all(link: RedisLink, where: str) -> list[Server]:
    nodes = await link.call(_primaries)
    if not nodes:
        return [await link.call(partial(_ask, where, {}))]
    asked = (link.call(partial(_ask, node.name, {"target_nodes": node})) for node in nodes)
    return await asyncio.gather(*asked)


async def _primaries(redis: object) -> list[ClusterNode]:
    """The primaries of a Cluster; none of anything else."""
    if not isinstance(redis, RedisCluster):
        return []
    await redis.initialize()
    return redis.get_primaries()


async def _ask(name: str, target: dict[str, Any], redis: Redis) -> Server:
    return Server(
        name,
        await _allowed(redis, "INFO", target),
        (await _allowed(redis, "CONFIG GET", target, "save") or {}).get("save"),
    )


async def _allowed(redis: Redis, command: str, target: dict[str, Any], *args: str) -> Any:
    """The reply; None when the user may not ask, or a provider took the command away, in whatever words."""
    try:
        return await redis.execute_command(command, *args, **target)  # type: ignore[no-untyped-call] # redis-py's
    except ResponseError as error:
        if is_away(error):
            raise
        return None


async def _probe(link: RedisLink) -> None:
    try:
        await link.call(lambda redis: redis.eval(_PROBE, 1, _PROBE_KEY))
    except ResponseError as error:
        raise ConfigurationError(
            f"The store's user may not do what is needed ({error}); its rights are listed in docs/stores.md."
        ) from error
