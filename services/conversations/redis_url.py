"""One URL says where a process's store is: which servers, in which topology, over what transport, as which user.

::

    redis://[user[:password]@]host[:6379][/db]                     one server; rediss:// with TLS
    unix://[user[:password]@]/path/of/socket[?db=0]                one server of this machine
    redis+sentinel://[user[:password]@]host[:26379],…/master[/db]  the primary that Sentinels name; rediss+sentinel://
    redis+cluster://[user[:password]@]host[:6379],…                a Cluster, by some of its nodes; rediss+cluster://

Nothing is dialled or read here. A message never repeats any part of a wrong URL: with one character too few, a password
stands where a host should.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

from cluster.errors import ConfigurationError

Topology = Literal["single", "sentinel", "cluster"]
Node = tuple[str, int]  # host, port

SCHEMES: Final = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)
PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_SECRETS: Final = ("password_file", "password_env")
_SENTINEL_LOGIN: Final = ("sentinel_user", "sentinel_password_file", "sentinel_password_env")
_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_MASTER: Final = re.compile(r"[A-Za-z0-9._-]+")
_DATABASE: Final = re.compile(r"[0-9]{1,5}")
_ENCODING: Final = " ('/', '?' and '@' in a password are written %2F, %3F and %40)"
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Login:
    """A user of a server and where its password is: in the URL, in a file or in the environment. Empty: nobody."""

    user: str = ""
    password: str = field(default="", repr=False)
    password_file: str = ""
    password_env: str = ""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files by their paths; empty: the machine's certificate authorities, and no certificate of the client's own."""

    ca_certs: str = ""
    certfile: str = ""
    keyfile: str = ""
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A URL that was understood. It has nodes (with Sentinel: those are the Sentinels) or a socket."""

    topology: Topology
    nodes: tuple[Node, ...] = ()
    socket: str = ""
    master: str = ""
    database: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: Tls | None = None

    @property
    def where(self) -> str:
        """For messages: the place without any secret."""
        if self.socket:
            return self.socket
        nodes = ", ".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{self.master} of {nodes}" if self.master else nodes


def parse_url(url: str) -> StoreAddress:
    """What a URL means.

    Raises:
        ConfigurationError: it cannot be used; says why without repeating it.
    """
    scheme, found, rest = url.partition("://")
    if not found or f"{scheme}://" not in SCHEMES:
        raise _wrong(f"must begin with one of {', '.join(SCHEMES)}")
    location, _, query = rest.partition("?")
    authority, slash, path = location.partition("/")
    login_text, _, hosts = authority.rpartition("@")
    base, _, kind = scheme.partition("+")
    topology: Topology = "sentinel" if kind == "sentinel" else "cluster" if kind == "cluster" else "single"
    parameters = _parameters(query, _allowed(base, topology))
    login = _login(login_text, parameters, "")
    if base == "unix":
        if hosts or not path:
            raise _wrong("must name the socket by an absolute path, as unix:///run/valkey.sock")
        return StoreAddress("single", socket=unquote(slash + path), database=_database(parameters), login=login)
    master, database = _path(topology, path)
    return StoreAddress(
        topology,
        nodes=_nodes(hosts, topology),
        master=master,
        database=database,
        login=login,
        sentinel_login=_login(parameters.get("sentinel_user", ""), parameters, "sentinel_"),
        tls=_tls(parameters) if base == "rediss" else None,
    )


def _allowed(base: str, topology: Topology) -> tuple[str, ...]:
    return (
        *_SECRETS,
        *(("db",) if base == "unix" else ()),
        *(_SENTINEL_LOGIN if topology == "sentinel" else ()),
        *(_TLS if base == "rediss" else ()),
    )


def _parameters(query: str, allowed: tuple[str, ...]) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        pairs = [("", "")]
    if not all(map(all, pairs)):
        raise _wrong("has a part behind '?' that is not name=value&name=value")
    if unknown := {name for name, _ in pairs}.difference(allowed):
        needs_tls = " (the ssl_ ones need rediss)" if unknown.intersection(_TLS) else ""
        raise _wrong(f"has a parameter that is none of {', '.join(allowed)}{needs_tls}")
    if len(dict(pairs)) < len(pairs):
        raise _wrong("gives a parameter twice")
    return dict(pairs)


def _login(text: str, parameters: Mapping[str, str], prefix: str) -> Login:
    user, _, password = text.partition(":")
    file, variable = (parameters.get(prefix + name, "") for name in _SECRETS)
    if sum(map(bool, (password, file, variable))) > 1:
        raise _wrong("gives a password in more than one way")
    if variable and not _VARIABLE.fullmatch(variable):
        raise _wrong(f"has a {prefix}password_env that is not the name of a variable")
    return Login(unquote(user), unquote(password), file, variable)


def _nodes(text: str, topology: Topology) -> tuple[Node, ...]:
    port = SENTINEL_PORT if topology == "sentinel" else PORT
    nodes = tuple(_node(part, port) for part in text.split(","))
    if topology == "single" and len(nodes) > 1:
        raise _wrong("names several hosts, which needs redis+sentinel:// or redis+cluster://")
    return nodes


def _node(text: str, default_port: int) -> Node:
    match = _HOST.fullmatch(text)
    port = int(match[2] or default_port) if match else 0
    if not match or not 1 <= port <= 65535:
        raise _wrong(f"must name each host as name:port{_ENCODING}")
    return match[1].strip("[]"), port


def _path(topology: Topology, path: str) -> tuple[str, int]:
    """Master name and database."""
    if topology == "sentinel":
        master, _, path = path.partition("/")
        if not _MASTER.fullmatch(master):
            raise _wrong("must name the master that the Sentinels watch, as redis+sentinel://host/mymaster")
    else:
        master = ""
    if path and not _DATABASE.fullmatch(path):
        raise _wrong(f"must end in the number of a database, or in nothing{_ENCODING}")
    if topology == "cluster" and int(path or 0):
        raise _wrong("names a database, and a Cluster has only 0")
    return master, int(path or 0)


def _database(parameters: Mapping[str, str]) -> int:
    text = parameters.get("db", "0")
    if not _DATABASE.fullmatch(text):
        raise _wrong("has a db that is not a number")
    return int(text)


def _tls(parameters: Mapping[str, str]) -> Tls:
    check = parameters.get("ssl_check_hostname", "true").lower()
    if check not in {"true", "false"}:
        raise _wrong("has an ssl_check_hostname that is neither true nor false")
    ca_certs, certfile, keyfile = (parameters.get(name, "") for name in _TLS[:3])
    tls = Tls(ca_certs, certfile, keyfile, check_hostname=check == "true")
    if tls.keyfile and not tls.certfile:
        raise _wrong("has an ssl_keyfile without its ssl_certfile")
    return tls


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"The Redis URL {what}.")
