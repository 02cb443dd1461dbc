"""Clients whose every reply is lost once, so that the library's repetition is part of every call."""

from __future__ import annotations

from functools import partial

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from tests.support.store_cluster import StoreCluster


class _Lossy:
    """Executes each command and pipeline twice and answers with the second reply, as after a lost one."""

    async def execute_command(self, *args, **options):
        await super().execute_command(*args, **options)
        return await super().execute_command(*args, **options)

    def pipeline(self, transaction=True):  # noqa: FBT002 - the library's signature
        return _TwicePipeline(partial(super().pipeline, transaction=transaction))


class LossyRedis(_Lossy, Redis):
    """Of one server."""


class LossyCluster(_Lossy, RedisCluster):
    """Of a Cluster."""


def lossy(server) -> Redis:
    """A lossy client of a server or Cluster."""
    if isinstance(server, StoreCluster):
        return LossyCluster(host="127.0.0.1", port=server.primaries[0].port, reinitialize_steps=0)
    return LossyRedis.from_url(server.url)


class _TwicePipeline:
    """Remembers what it is given and puts it into two real pipelines, one after the other."""

    def __init__(self, make):
        self._make = make
        self._calls = []

    def __getattr__(self, name):
        return lambda *args, **options: self._calls.append((name, args, options))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass

    async def execute(self, **options):
        await self._execute_once(**options)
        return await self._execute_once(**options)

    async def _execute_once(self, **options):
        async with self._make() as pipe:
            for name, args, parameters in self._calls:
                getattr(pipe, name)(*args, **parameters)
            return await pipe.execute(**options)
