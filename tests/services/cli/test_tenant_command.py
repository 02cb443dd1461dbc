"""`chatglm-cluster tenant` and `key`, over a real Valkey server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.conversations.redis_link import RedisLink
from services.tenants.keys import split_key
from services.tenants.redis_keys import TENANTS, RedisKeyStore
from services.tenants.share import Share
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.valkey

Command = Callable[..., tuple[int, str, str]]
Run = Callable[..., tuple[int, str]]
LIMITS = "history_ttl_days default, resume_s default, max_queued default"


@pytest.fixture
def run(cli: Command) -> Run:
    """Call a command; its status and what it printed, errors and all."""

    def call(*args: str) -> tuple[int, str]:
        status, told, errors = cli(*args)
        return status, " ".join((told + errors).split())

    return call


def found_with(server: ValkeyServer, key: str) -> Share:
    """The share that a gateway finds with a key."""
    parts = split_key(key)
    assert parts is not None

    async def find() -> Share:
        link = RedisLink(server.url)
        record = await RedisKeyStore(link).find(parts[0])
        await link.close()
        assert record is not None
        return record.share

    return asyncio.run(find())


def new_key(run: Run, tenant: str) -> str:
    """The text of a new key."""
    _, told = run("key", "create", tenant)
    return told.split()[0]


def test_what_is_set_is_found_with_the_tenants_keys(run: Run, server: ValkeyServer) -> None:
    """And said, with how many keys it concerns."""
    key = new_key(run, "acme")
    assert run("tenant", "set", "acme", "--weight", "3", "--priority", "1") == (
        0,
        f"Tenant acme: weight 3, priority 1, {LIMITS}, keys that work: 1.",
    )
    assert found_with(server, key) == Share(weight=3, priority=1)


def test_limits_are_set_and_taken_back(run: Run, server: ValkeyServer) -> None:
    """``default`` is what the cluster has."""
    key = new_key(run, "acme")
    _, told = run("tenant", "set", "acme", "--history-ttl-days", "2.5", "--resume-s", "0", "--max-queued", "1000000")
    assert "history_ttl_days 2.5, resume_s 0, max_queued 1000000, keys" in told
    assert found_with(server, key) == Share(history_ttl_days=2.5, resume_s=0, max_queued=1_000_000)
    run("tenant", "set", "acme", "--resume-s", "default", "--max-queued", "3")
    assert found_with(server, key) == Share(history_ttl_days=2.5, max_queued=3)


def test_what_is_not_given_stays(run: Run, server: ValkeyServer) -> None:
    """Each part is set for itself."""
    key = new_key(run, "acme")
    run("tenant", "set", "acme", "--weight", "0.25")
    run("tenant", "set", "acme", "--priority", "2")
    assert found_with(server, key) == Share(weight=0.25, priority=2)


def test_a_tenant_that_was_given_nothing_shows_the_defaults(run: Run) -> None:
    """Its revoked keys are not counted."""
    key = new_key(run, "acme")
    run("key", "revoke", key[3:15])
    assert run("tenant", "show", "acme") == (
        0,
        f"Tenant acme: weight 1, priority 0, {LIMITS}, keys that work: 0.",
    )


def test_a_tenant_that_nobody_made_is_an_error(run: Run) -> None:
    """An operator who mistypes a name learns it."""
    assert run("tenant", "show", "acne") == (2, "No tenant 'acne' was found.")


def test_the_list_has_tenants_with_keys_and_with_shares(run: Run) -> None:
    """One prepared before its first key, too; by name."""
    new_key(run, "beta")
    run("tenant", "set", "acme", "--weight", "2.5", "--max-queued", "7")
    status, told = run("tenant", "list")
    cells = [cell for cell in told.replace("│", " ").split() if cell[0].isalnum()]
    assert status == 0
    assert cells[-14:-7] == ["acme", "2.5", "0", "default", "default", "7", "0"]
    assert cells[-7:] == ["beta", "1", "0", "default", "default", "default", "1"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["acme"], "Give at least one of weight, priority, history_ttl_days, resume_s, max_queued."),
        (["acme", "--weight", "0"], "A tenant's weight is 0.01 to 1000, not 0."),
        (["acme", "--weight", "nan"], "A tenant's weight is 0.01 to 1000, not nan."),
        (["acme", "--priority", "10"], "A tenant's priority is a whole number from 0 to 9, not 10."),
        (["acme", "--history-ttl-days", "week"], "A tenant's history_ttl_days is 1 to 3650, not week."),
        (["acme", "--resume-s", "-1"], "A tenant's resume_s is 0 to 1800, not -1."),
        (["acme", "--max-queued", "0"], "A tenant's max_queued is a whole number from 1 to 1000000, not 0."),
        (["Acme", "--weight", "2"], "A tenant id is 1 to 32 of a-z, 0-9 and '-'."),
    ],
)
def test_a_wrong_share_is_one_sentence_and_changes_nothing(run: Run, args: list[str], said: str) -> None:
    """Status 2, and nobody is listed."""
    assert run("tenant", "set", *args) == (2, said)
    assert "acme" not in run("tenant", "list")[1].lower()


def test_a_share_that_was_spoilt_by_hand_says_how_to_repair_it(run: Run, server: ValkeyServer) -> None:
    """And that does repair it."""
    key = new_key(run, "acme")
    with server.client() as client:
        client.hset(TENANTS, "acme:weight", "heavy")
    status, told = run("tenant", "list")
    assert (status, "`chatglm-cluster tenant set acme --weight default`" in told) == (2, True)
    repaired = run("tenant", "set", "acme", "--weight", "default")
    assert repaired == (0, f"Tenant acme: weight 1, priority 0, {LIMITS}, keys that work: 1.")
    assert found_with(server, key) == Share()


def test_keys_are_listed_rotated_and_revoked(run: Run, server: ValkeyServer) -> None:
    """The texts are shown once, and a rotated key keeps its tenant's share."""
    key = new_key(run, "acme")
    run("tenant", "set", "acme", "--weight", "2")
    status, told = run("key", "rotate", key[3:15])
    assert (status, found_with(server, told.split()[0])) == (0, Share(weight=2))
    _, listed = run("key", "list")
    assert (listed.count("acme"), listed.count("revoked"), listed.count("valid")) == (2, 1, 1)
    assert key not in listed
    assert run("key", "revoke", "nobody") == (2, "No key 'nobody' was found.")
