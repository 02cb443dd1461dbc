"""A client of redis-py for each topology, with the same bounds: one second per answer and one repetition.

redis-py's own defaults (ten retries of five seconds) would hold a request for most of a minute.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import ConnectionPool, Redis, Sentinel, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import ConstantBackoff, NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError
from redis.maint_notifications import MaintNotificationsConfig

from cluster.errors import ConfigurationError
from services.conversations.redis_url import Login, StoreAddress, Tls

SOCKET_TIMEOUT_S: Final = 1.0
SENTINEL_TIMEOUT_S: Final = 0.5  # then the next Sentinel is asked, and the server still has its second
MAX_CONNECTIONS: Final = 128  # to one server; the link has fewer in use, the rest are being closed

_RETRY_PAUSE_S: Final = 0.05


def connect(address: StoreAddress) -> Redis:
    """A client that dials at its first command. One of a Cluster is a ``RedisCluster``, which takes the same commands.

    Raises:
        ConfigurationError: a file or variable that the address names cannot be used here.
    """
    if address.topology == "cluster":
        return cast("Redis", _cluster(address))
    if address.topology == "sentinel":
        return _sentinel(address)
    return Redis.from_pool(ConnectionPool(**_server(address), **_single(address)))


class Secret(CredentialProvider):
    """A login whose password may change: file or variable are read for every new connection."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Raises AuthenticationError when the password cannot be read now."""
        try:
            password = read_password(self._login)
        except ConfigurationError as error:
            raise AuthenticationError(str(error)) from error
        return (self._login.user, password) if self._login.user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same."""
        return self.get_credentials()


def read_password(login: Login) -> str:
    """The password, from wherever the login says.

    Raises:
        ConfigurationError: the file or variable is not there.
    """
    if login.password_file:
        try:
            return Path(login.password_file).read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The store's password_file {login.password_file} cannot be read.") from error
    if login.password_env:
        if login.password_env not in os.environ:
            raise ConfigurationError(f"The store's password_env {login.password_env} is not in the environment.")
        return os.environ[login.password_env]
    return login.password


class _SentinelPool(SentinelConnectionPool):
    """Closes its connections to the Sentinels too: nobody else knows of them."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def _server(address: StoreAddress) -> dict[str, Any]:
    if address.socket:
        return {"connection_class": UnixDomainSocketConnection, "path": address.socket}
    ((host, port),) = address.nodes
    encryption = {"connection_class": SSLConnection, **_tls(address.tls)} if address.tls else {}
    return {"host": host, "port": port, **encryption}


def _single(address: StoreAddress) -> dict[str, Any]:
    retry = Retry(ConstantBackoff(_RETRY_PAUSE_S), 1)
    return {**_common(address.login), "max_connections": MAX_CONNECTIONS, "db": address.database, "retry": retry}


def _sentinel(address: StoreAddress) -> Redis:
    encryption = {"ssl": True, **_tls(address.tls)} if address.tls else {}
    bounds = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    to_sentinels: dict[str, Any] = {
        **_common(address.sentinel_login),
        **bounds,
        "retry": Retry(NoBackoff(), 0),
        **encryption,
    }
    sentinel = Sentinel(address.nodes, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call] # redis-py's
    client: Redis = sentinel.master_for(
        address.master, connection_pool_class=_SentinelPool, **_single(address), **encryption
    )
    return client


def _cluster(address: StoreAddress) -> RedisCluster:
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.nodes],
        max_connections=MAX_CONNECTIONS,
        retry=Retry(ConstantBackoff(_RETRY_PAUSE_S), 1),
        require_full_coverage=False,  # the slots that are there are served while others are away
        reinitialize_steps=0,  # each fifth MOVED would else close every connection, also those in use
        ssl=address.tls is not None,
        **_tls(address.tls),
        **_common(address.login),
    )


def _common(login: Login) -> dict[str, Any]:
    return {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": SOCKET_TIMEOUT_S,
        "credential_provider": _provider(login),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),  # one more question per connection
    }


def _provider(login: Login) -> Secret | None:
    if login == Login():
        return None
    read_password(login)  # what is missing is said now, not at the first turn
    return Secret(login)


def _tls(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    try:
        context = ssl.create_default_context(cafile=tls.ca_certs or None)
        if tls.certfile:
            context.load_cert_chain(tls.certfile, tls.keyfile or None)
    except OSError as error:  # SSLError is one
        files = ", ".join(filter(None, (tls.ca_certs, tls.certfile, tls.keyfile)))
        reason = error.strerror or error
        raise ConfigurationError(f"The store's TLS files ({files}) cannot be used: {reason}.") from error
    return {
        "ssl_ca_certs": tls.ca_certs or None,
        "ssl_certfile": tls.certfile or None,
        "ssl_keyfile": tls.keyfile or None,
        "ssl_check_hostname": tls.check_hostname,
    }
