"""A client whose every reply is lost once, so that the library's retry is part of every call."""

from __future__ import annotations

from redis.asyncio import Redis


class LossyRedis(Redis):
    """Executes each command twice and answers with the second reply, as a retry after a lost reply does."""

    async def execute_command(self, *args, **options):
        await super().execute_command(*args, **options)
        return await super().execute_command(*args, **options)
