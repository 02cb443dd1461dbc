"""One URL for every topology: what it means, and that a wrong one is refused without being repeated."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigurationError
from services.conversations.redis_url import Login, StoreAddress, Tls, parse_url

HOSTS = st.lists(
    st.tuples(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True), st.integers(1, 65535)),
    min_size=1,
    max_size=5,
)
SECRETS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
TOPOLOGIES = {"redis": "single", "redis+sentinel": "sentinel", "redis+cluster": "cluster"}

MEANINGS = {
    "redis://h": StoreAddress("single", (("h", 6379),)),
    "redis://h/?": StoreAddress("single", (("h", 6379),)),
    "redis://:pw@[::1]:7/2": StoreAddress("single", (("::1", 7),), database=2, login=Login("", "pw")),
    "redis://u@h?password_file=/run/pw": StoreAddress("single", (("h", 6379),), login=Login("u", "", "/run/pw")),
    "redis://h?password_env=PW": StoreAddress("single", (("h", 6379),), login=Login("", "", "", "PW")),
    "rediss://h": StoreAddress("single", (("h", 6379),), tls=Tls()),
    "rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false": StoreAddress(
        "single", (("h", 6379),), tls=Tls("/ca", "/c", "/k", check_hostname=False)
    ),
    "unix:///run/v.sock": StoreAddress("single", socket="/run/v.sock"),
    "unix://u:pw@/run/v.sock?db=3": StoreAddress("single", socket="/run/v.sock", database=3, login=Login("u", "pw")),
    "redis+sentinel://a,b:7/mymaster": StoreAddress("sentinel", (("a", 26379), ("b", 7)), master="mymaster"),
    "rediss+sentinel://u:pw@a/m.1/4?sentinel_user=s&sentinel_password_file=/s": StoreAddress(
        "sentinel",
        (("a", 26379),),
        master="m.1",
        database=4,
        login=Login("u", "pw"),
        sentinel_login=Login("s", "", "/s"),
        tls=Tls(),
    ),
    "redis+cluster://a,b:7": StoreAddress("cluster", (("a", 6379), ("b", 7))),
    "rediss+cluster://u:p@a/0": StoreAddress("cluster", (("a", 6379),), login=Login("u", "p"), tls=Tls()),
}

WRONG = {
    "": "must begin with",
    "localhost:6379": "must begin with",
    "http://h": "must begin with",
    "redis+unix://h": "must begin with",
    "redis://": "each host",
    "redis:///0": "each host",
    "redis://h:port": "each host",
    "redis://h:0": "each host",
    "redis://h:65536": "each host",
    "redis://h,": "each host",
    "redis://user:p/w@h": "%2F",
    "redis://a,b": "redis+cluster://",
    "redis://h/one": "number of a database",
    "redis://h/1/2": "number of a database",
    "redis://h?db=1": "none of",
    "redis://h?db": "name=value",
    "redis://h?password_file=": "name=value",
    "redis://h?ssl_ca_certs=/ca": "need rediss",
    "redis://h?password=pw": "none of password_file",
    "redis://:pw@h?password_file=/f": "more than one way",
    "redis://h?password_file=/f&password_env=E": "more than one way",
    "redis://h?password_file=/f&password_file=/g": "twice",
    "redis://h?password_env=A-B": "variable",
    "rediss://h?ssl_keyfile=/k": "without its ssl_certfile",
    "rediss://h?ssl_check_hostname=maybe": "true nor false",
    "unix://": "absolute path",
    "unix://run/v.sock": "absolute path",
    "unix:///run/v?db=x": "not a number",
    "redis+sentinel://a,b": "mymaster",
    "redis+sentinel://a/": "mymaster",
    "redis+sentinel://a/m/x": "number of a database",
    "redis+cluster://a/1": "only 0",
}


@pytest.mark.parametrize(("url", "address"), MEANINGS.items())
def test_each_form_has_one_meaning(url, address):
    """Topology, places, master, database, user and TLS."""
    assert parse_url(url) == address


@pytest.mark.parametrize(("url", "words"), WRONG.items())
def test_a_wrong_url_is_refused_with_what_is_wrong(url, words):
    """The sentence says what to write instead."""
    with pytest.raises(ConfigurationError, match="The Redis URL ") as wrong:
        parse_url(url)
    assert words in str(wrong.value)


@given(st.sampled_from(sorted(TOPOLOGIES)), HOSTS, SECRETS, SECRETS)
def test_any_user_and_password_reach_the_address(scheme, hosts, user, password):
    """Percent-encoding carries every character, whatever it means in a URL."""
    places = hosts[:1] if scheme == "redis" else hosts
    tail = "/mymaster" if scheme == "redis+sentinel" else ""
    text = ",".join(f"{host}:{port}" for host, port in places)
    address = parse_url(f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{text}{tail}")
    assert (address.topology, address.nodes) == (TOPOLOGIES[scheme], tuple(places))
    assert address.login == Login(user, password)


@given(st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "http", "x"]), st.text())
def test_any_text_is_understood_or_refused(scheme, text):
    """There is no third way out, such as an error of a library that shows what it was given."""
    for url in (text, f"{scheme}://{text}"):
        with suppress(ConfigurationError):
            parse_url(url)


@given(st.sampled_from(["redis", "unix", "redis+sentinel", "redis+cluster", "hppt"]), st.data())
def test_a_refused_url_is_not_repeated(scheme, data):
    """However it is spoilt, no part of the password is in the message, nor in a printed address."""
    secret = "Zq9$" + data.draw(st.sampled_from(["/x", "@x", "?x=", "#x", ":x", "&x=y", ",x", " x", "x"])) + "Zq9"
    url = data.draw(st.sampled_from([f"{scheme}://u:{secret}@h/m", f"{scheme}://h/?p={secret}", f"{secret}://h"]))
    try:
        shown = repr(parse_url(url))
    except ConfigurationError as error:
        shown = str(error)
    assert "Zq9" not in shown


def test_a_place_is_told_without_the_password():
    """For messages."""
    assert parse_url("redis+sentinel://u:pw@a,b/m").where == "m of a:26379, b:26379"
    assert parse_url("unix://u:pw@/run/v.sock").where == "/run/v.sock"
