"""What every KeyStore promises."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidRequestError, NotFoundError
from services.tenants.keys import split_key
from services.tenants.share import PARTS, Share


async def test_a_new_key_is_found_and_admits_its_secret_only(key_store):
    """Its text names the record and proves itself."""
    info, text = await key_store.create("acme", "laptop")
    key_id, secret = split_key(text)
    record = await key_store.find(key_id)
    assert (record.info, key_id) == (info, info.id)
    assert record.admits(secret)
    assert not record.admits(secret[::-1])
    assert (info.tenant, info.name, info.revoked_at) == ("acme", "laptop", None)
    assert info.created_at > 0


async def test_an_unknown_key_is_not_found(key_store):
    """None, not an error: strangers guess all day."""
    assert await key_store.find("nobody") is None


async def test_a_revoked_key_admits_nobody_and_stays_listed(key_store):
    """Revoking it again changes nothing."""
    info, text = await key_store.create("acme", "laptop")
    await key_store.revoke(info.id)
    first = await key_store.list()
    await key_store.revoke(info.id)
    record = await key_store.find(info.id)
    assert not record.admits(split_key(text)[1])
    assert record.info.revoked_at > 0
    assert await key_store.list() == first == [record.info]


async def test_a_rotated_key_gives_way_to_a_new_one(key_store):
    """Same tenant and name, another id and secret; the old one is revoked."""
    old, _ = await key_store.create("acme", "laptop")
    new, text = await key_store.rotate(old.id)
    assert (new.tenant, new.name, new.id == old.id) == ("acme", "laptop", False)
    assert (await key_store.find(new.id)).admits(split_key(text)[1])
    assert (await key_store.find(old.id)).info.revoked_at > 0


async def test_what_cannot_be_rotated_or_revoked_says_why(key_store):
    """An unknown key is not found; a revoked one is not brought back by rotation."""
    for change in (key_store.revoke, key_store.rotate):
        with pytest.raises(NotFoundError, match="nobody"):
            await change("nobody")
    info, _ = await key_store.create("acme", "laptop")
    await key_store.revoke(info.id)
    with pytest.raises(InvalidRequestError, match="revoked"):
        await key_store.rotate(info.id)
    assert [key.id for key in await key_store.list()] == [info.id]


async def test_keys_of_all_tenants_are_listed_oldest_first(key_store):
    """The list is for operators."""
    made = [(await key_store.create(tenant, "k"))[0] for tenant in ("b", "a", "b")]
    listed = await key_store.list()
    assert {key.id for key in listed} == {key.id for key in made}
    assert [key.created_at for key in listed] == sorted(key.created_at for key in made)


async def test_every_change_moves_the_version(key_store):
    """Gateways watch this number alone."""
    versions = [await key_store.version()]
    info, _ = await key_store.create("acme", "k")
    versions.append(await key_store.version())
    new, _ = await key_store.rotate(info.id)
    versions.append(await key_store.version())
    await key_store.revoke(new.id)
    versions.append(await key_store.version())
    assert len(set(versions)) == 4


@pytest.mark.parametrize("tenant", ["", "A", "a.b", "a}", "a" * 33, "ä", "a\n"])
async def test_a_tenant_id_that_could_leave_its_keys_is_refused(key_store, tenant):
    """Before anything is stored."""
    with pytest.raises(InvalidRequestError) as caught:
        await key_store.create(tenant, "k")
    assert caught.value.param == "tenant"
    assert await key_store.list() == []


@pytest.mark.parametrize("name", ["a" * 65, "line\nbreak", "\x1b[31m"])
async def test_a_name_that_would_disturb_a_list_is_refused(key_store, name):
    """Names are shown in terminals."""
    with pytest.raises(InvalidRequestError) as caught:
        await key_store.create("acme", name)
    assert caught.value.param == "name"


async def test_no_secret_is_stored(key_store, server):
    """Neither the text nor the secret is anywhere in Redis."""
    _, text = await key_store.create("acme", "k")
    secret = split_key(text)[1].encode()
    if server is None:
        assert all(secret not in repr(record).encode() for record in key_store._records.values())
        return
    with server.client() as client:
        stored = client.hgetall("c1:{keys}:records")
    assert len(stored) == 1
    assert all(secret not in blob and secret not in name for name, blob in stored.items())


async def test_a_tenant_that_was_given_nothing_has_the_default_share(key_store):
    """Weight 1, class 0, and it is not listed."""
    info, _ = await key_store.create("acme", "k")
    assert (await key_store.find(info.id)).share == Share(weight=1.0, priority=0)
    assert await key_store.shares() == {}


async def test_a_share_is_found_with_every_key_of_its_tenant(key_store):
    """Older and newer ones, and with nobody else's."""
    keys = [(await key_store.create(tenant, "k"))[0].id for tenant in ("acme", "rival")]
    share = await key_store.set_share("acme", weight=2.5, priority=3)
    keys.append((await key_store.rotate(keys[0]))[0].id)
    assert share == Share(weight=2.5, priority=3)
    assert [(await key_store.find(key)).share for key in keys] == [share, Share(), share]


async def test_a_share_is_changed_part_by_part(key_store):
    """What is not given stays as it was."""
    assert await key_store.set_share("acme", weight=3) == Share(weight=3.0)
    assert await key_store.set_share("acme", priority=1) == Share(weight=3.0, priority=1)
    assert await key_store.set_share("acme", weight=0.1) == Share(weight=0.1, priority=1)
    assert await key_store.shares() == {"acme": Share(weight=0.1, priority=1)}


async def test_limits_and_times_are_given_and_taken_back(key_store):
    """None is the cluster's again; a tenant with nothing left is listed no more."""
    info, _ = await key_store.create("acme", "k")
    given = {"history_ttl_days": 1.5, "resume_s": 0.0, "max_queued": 7}
    share = await key_store.set_share("acme", weight=2, **given)
    assert share == Share(weight=2.0, **given) == (await key_store.find(info.id)).share
    assert await key_store.set_share("acme", resume_s=None, max_queued=9) == Share(
        weight=2.0, history_ttl_days=1.5, max_queued=9
    )
    assert await key_store.set_share("acme", **dict.fromkeys(PARTS)) == Share()
    assert ((await key_store.find(info.id)).share, await key_store.shares()) == (Share(), {})


async def test_a_share_may_come_before_the_first_key(key_store):
    """An operator prepares a tenant; one id being the beginning of another confuses nothing."""
    await key_store.set_share("acme", weight=2)
    await key_store.set_share("acme-2", priority=9)
    info, _ = await key_store.create("acme-2", "k")
    assert (await key_store.find(info.id)).share == Share(priority=9)
    assert await key_store.shares() == {"acme": Share(weight=2.0), "acme-2": Share(priority=9)}


@pytest.mark.parametrize(
    ("tenant", "change", "param"),
    [
        ("acme", {"weight": 0.009}, "weight"),
        ("acme", {"weight": 1000.5}, "weight"),
        ("acme", {"weight": float("nan")}, "weight"),
        ("acme", {"weight": 2.0, "priority": -1}, "priority"),
        ("acme", {"priority": 10}, "priority"),
        ("acme", {"history_ttl_days": 0.5}, "history_ttl_days"),
        ("acme", {"weight": None, "resume_s": 1801}, "resume_s"),
        ("acme", {"max_queued": 0}, "max_queued"),
        ("acme", {}, "weight"),
        ("a:weight", {"weight": 2.0}, "tenant"),
    ],
)
async def test_a_wrong_share_is_refused_and_changes_nothing(key_store, tenant, change, param):
    """Each with the name of what is wrong."""
    before = await key_store.version()
    with pytest.raises(InvalidRequestError) as caught:
        await key_store.set_share(tenant, **change)
    assert caught.value.param == param
    assert (await key_store.shares(), await key_store.version()) == ({}, before)


async def test_a_new_share_moves_the_version(key_store):
    """Gateways drop what they remember of the tenant's keys."""
    before = await key_store.version()
    await key_store.set_share("acme", weight=2)
    assert await key_store.version() != before
