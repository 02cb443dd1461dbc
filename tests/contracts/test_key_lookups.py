"""What a gateway's lookup of a key costs the server, and what its time tells a stranger."""

from __future__ import annotations

import pytest

from services.conversations.redis_link import RedisLink
from services.tenants.redis_keys import RedisKeyStore

pytestmark = pytest.mark.valkey


@pytest.fixture
async def keys(plain_valkey):
    link = RedisLink(plain_valkey.url)
    yield RedisKeyStore(link)
    await link.close()
    plain_valkey.flush()


@pytest.fixture
def commands_of(keys, plain_valkey):
    """How often the server runs each command while a key is looked up."""

    async def count(key_id):
        with plain_valkey.client() as client:
            client.config_resetstat()
            await keys.find(key_id)
            stats = client.info("commandstats")
        return {name: stat["calls"] for name, stat in stats.items() if "config" not in name}

    return count


async def test_unknown_revoked_and_good_keys_take_the_same_commands(keys, commands_of):
    """Strangers cannot tell by the time which ids exist, nor whose tenant was given a share."""
    good, _ = await keys.create("acme", "k")
    revoked, _ = await keys.create("rival", "k")
    await keys.revoke(revoked.id)
    await keys.set_share("acme", weight=2)
    await keys.find(good.id)  # the connection is there
    counts = [await commands_of(key_id) for key_id in (good.id, revoked.id, "a" * 12)]
    assert counts == [{"cmdstat_multi": 1, "cmdstat_hget": 2, "cmdstat_exec": 1, "cmdstat_hmget": 1}] * 3
