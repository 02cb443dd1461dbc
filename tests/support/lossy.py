"""A client whose every reply is lost once, so that the library's retry is part of every call."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline


class LossyPipeline(Pipeline):
    """Executes all of its commands twice and answers with the second replies."""

    async def execute(self, **options):
        commands = list(self.command_stack)
        await super().execute(**options)
        self.command_stack = commands
        return await super().execute(**options)


class LossyRedis(Redis):
    """Executes each command twice and answers with the second reply, as a retry after a lost reply does."""

    async def execute_command(self, *args, **options):
        await super().execute_command(*args, **options)
        return await super().execute_command(*args, **options)

    def pipeline(self, *, transaction):
        """Every pipeline of this client is sent twice too."""
        return LossyPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint=None)
