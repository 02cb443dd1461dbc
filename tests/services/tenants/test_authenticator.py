from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cluster.errors import InvalidKeyError, StoreUnavailableError
from services.tenants import authenticator as module
from services.tenants.authenticator import Authenticator
from services.tenants.share import Share
from services.tenants.tenant import Tenant
from tests.fakes.fake_clock import FakeClock
from tests.fakes.steered_key_store import SteeredKeyStore

ACME = Tenant(id="acme", name="acme")
WRONG = "sk-" + "a" * 44


@pytest.fixture
def clock():
    return FakeClock(0.0)


@pytest.fixture
def store():
    return SteeredKeyStore()


@pytest.fixture
async def authenticator(store, clock):
    """Its poller looks at every turn of the loop, so tests wait for conditions and not for time."""
    made = Authenticator(store, clock=clock, poll_s=0.0)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def key(store, authenticator):
    """A key whose making the authenticator has seen."""
    _, text = await store.create("acme", "laptop")
    await settle(lambda: authenticator._version == store._version)
    return text


async def settle(condition: Callable[[], bool]) -> None:
    """Let tasks run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - conditions lie inside the code under test, which signals no event
            await asyncio.sleep(0)


async def refusal(authenticator, bearer):
    with pytest.raises(InvalidKeyError) as caught:
        await authenticator.authenticate(bearer)
    return str(caught.value)


async def test_a_key_finds_its_tenant(authenticator, key):
    """The bearer text is all that is needed."""
    assert await authenticator.authenticate(key) == ACME


async def test_all_bad_keys_get_the_same_answer(authenticator, store, key):
    """Missing, malformed, unknown, wrong and revoked cannot be told apart."""
    info, revoked = await store.create("acme", "old")
    await store.revoke(info.id)
    wrong_secret = key[:-1] + ("a" if key[-1] != "a" else "b")
    bad = [None, "", "nonsense", "\udc80", WRONG, wrong_secret, revoked, key + " ", "x" * 100_000]
    assert len({await refusal(authenticator, bearer) for bearer in bad}) == 1


async def test_bad_keys_are_not_named_in_the_answer(authenticator):
    """Errors end in logs."""
    assert WRONG not in await refusal(authenticator, WRONG)


async def test_every_kind_of_bad_key_is_hashed_and_compared(authenticator, store, monkeypatch):
    """The work is the same whether or not there is a record."""
    compared = []
    monkeypatch.setattr("services.tenants.keys.hmac.compare_digest", lambda a, b: compared.append((len(a), len(b))))
    info, revoked = await store.create("acme", "old")
    await store.revoke(info.id)
    for bearer in [None, "nonsense", WRONG, revoked]:
        await refusal(authenticator, bearer)
    assert compared == [(32, 32)] * 4


async def test_a_malformed_key_is_never_looked_up(authenticator, store):
    """Strangers cannot make the store work."""
    await refusal(authenticator, "nonsense")
    await refusal(authenticator, None)
    assert store.lookups == 0


@pytest.mark.parametrize("is_good", [True, False])
async def test_an_answer_is_remembered_for_a_minute(authenticator, store, clock, key, is_good):
    """Good or bad, the store is asked once; then again."""

    async def ask():
        if is_good:
            await authenticator.authenticate(key)
        else:
            await refusal(authenticator, WRONG)

    await ask()
    clock.now += 59
    await ask()
    assert store.lookups == 1
    clock.now += 1
    await ask()
    assert store.lookups == 2


async def test_a_revoked_key_stops_at_the_next_poll(authenticator, store, key):
    """The change is seen by its version, long before the minute is over."""
    await authenticator.authenticate(key)
    await store.revoke(key[3:15])
    await settle(lambda: authenticator._version == store._version)
    await refusal(authenticator, key)


async def test_a_rotated_key_starts_and_stops_at_the_next_poll(authenticator, store, key):
    """The old text is refused, the new one admitted."""
    await authenticator.authenticate(key)
    _, text = await store.rotate(key[3:15])
    await settle(lambda: authenticator._version == store._version)
    await refusal(authenticator, key)
    assert await authenticator.authenticate(text) == ACME


async def test_a_lookup_that_a_revocation_overtakes_is_not_remembered(authenticator, store, key):
    """Its answer was read before the change and came after the drop."""
    store.answering.clear()
    asked = asyncio.create_task(authenticator.authenticate(key))
    await settle(lambda: store.lookups == 1)
    await store.revoke(key[3:15])
    await settle(lambda: authenticator._version == store._version)
    store.answering.set()
    assert await asked == ACME
    await refusal(authenticator, key)


async def test_without_polling_nothing_is_remembered(store, clock):
    """Before start and after stop every request asks, so a revoked key cannot live on."""
    authenticator = Authenticator(store, clock=clock)
    info, text = await store.create("acme", "k")
    await authenticator.authenticate(text)
    await store.revoke(info.id)
    await refusal(authenticator, text)
    assert store.lookups == 2


async def test_remembered_keys_work_while_the_store_is_away(authenticator, store, clock, key):
    """For ten minutes after they were last seen good; then the caller is told to come back."""
    await authenticator.authenticate(key)
    store.is_away = True
    await settle(lambda: authenticator._is_away)
    clock.now += 599
    assert await authenticator.authenticate(key) == ACME
    clock.now += 1
    with pytest.raises(StoreUnavailableError):
        await authenticator.authenticate(key)


async def test_a_stale_key_is_served_even_before_the_poller_notices(authenticator, store, clock, key):
    """The lookup itself finds that the store is away."""
    await authenticator.authenticate(key)
    await authenticator.stop()
    store.is_away = True
    clock.now += 120
    assert await authenticator.authenticate(key) == ACME


async def test_unknown_keys_are_unavailable_while_the_store_is_away(authenticator, store, key):
    """Nobody can say whether they are good."""
    store.is_away = True
    with pytest.raises(StoreUnavailableError):
        await authenticator.authenticate(key)
    await refusal(authenticator, "nonsense")


async def test_the_store_coming_back_is_noticed(authenticator, store, clock, key):
    """A key revoked meanwhile is refused as soon as the version can be read."""
    await authenticator.authenticate(key)
    store.is_away = True
    await settle(lambda: authenticator._is_away)
    await store.revoke(key[3:15])
    assert await authenticator.authenticate(key) == ACME
    store.is_away = False
    await settle(lambda: not authenticator._is_away)
    await refusal(authenticator, key)


async def test_it_starts_while_the_store_is_away(store, clock):
    """The gateway comes up and recovers by itself."""
    store.is_away = True
    authenticator = Authenticator(store, clock=clock, poll_s=0.0)
    await authenticator.start()
    _, text = await store.create("acme", "k")
    store.is_away = False
    await settle(lambda: not authenticator._is_away)
    assert await authenticator.authenticate(text) == ACME
    await authenticator.stop()


async def test_random_keys_cannot_push_good_ones_out(authenticator, store, key, monkeypatch):
    """Bad answers have a bounded place of their own."""
    monkeypatch.setattr(authenticator, "_bad", module._Cache(10))
    await authenticator.authenticate(key)
    for number in range(50):
        await refusal(authenticator, f"sk-{number:044d}")
    asked = store.lookups
    await authenticator.authenticate(key)
    assert store.lookups == asked
    assert len(authenticator._bad._entries) == 10


async def test_no_secret_is_held_in_memory(authenticator, key):
    """The cache knows keys by their hash."""
    await authenticator.authenticate(key)
    assert key[15:] not in repr(vars(authenticator._good))


async def test_stop_ends_the_poller(store, clock):
    """And stopping twice does no harm."""
    before = asyncio.all_tasks()
    authenticator = Authenticator(store, clock=clock)
    await authenticator.start()
    await authenticator.stop()
    await authenticator.stop()
    assert asyncio.all_tasks() == before


async def test_a_key_comes_with_its_tenants_share(authenticator, store, key):
    """As the operator set it."""
    await store.set_share("acme", weight=3, priority=1)
    await settle(lambda: authenticator._version == store._version)
    assert (await authenticator.authenticate(key)).share == Share(weight=3, priority=1)


async def test_a_new_share_counts_from_the_next_poll(authenticator, store, key):
    """Long before the minute is over, and then it is remembered like the first: the hot path asks nobody."""
    assert (await authenticator.authenticate(key)).share == Share()
    await store.set_share("acme", weight=0.5)
    await settle(lambda: authenticator._version == store._version)
    shares = [(await authenticator.authenticate(key)).share for _ in range(5)]
    assert shares == [Share(weight=0.5)] * 5
    assert store.lookups == 2


async def test_a_remembered_share_counts_while_the_store_is_away(authenticator, store, key):
    """An outage makes nobody more or less important."""
    await store.set_share("acme", weight=3)
    await settle(lambda: authenticator._version == store._version)
    await authenticator.authenticate(key)
    store.is_away = True
    await settle(lambda: authenticator._is_away)
    assert (await authenticator.authenticate(key)).share == Share(weight=3)
