"""Which stores a contract is tested on, by the names of the fixtures that run them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.valkey import REDIS

_TWICE = "+twice"
_VALKEY = [pytest.mark.valkey]
_HEAVY = [pytest.mark.valkey, pytest.mark.heavy]
_REDIS = [pytest.mark.valkey, pytest.mark.heavy, pytest.mark.skipif(not REDIS, reason="no redis-server on PATH")]

REAL = [
    pytest.param("plain_valkey", marks=_VALKEY),
    pytest.param("cluster_mode", marks=_VALKEY),  # one node, which refuses what spans slots
    pytest.param("valkey_cluster", marks=_HEAVY),
    pytest.param("plain_redis", marks=_REDIS),
    pytest.param("redis_cluster", marks=_REDIS),
]
KINDS: list[Any] = ["memory", *REAL]
TWICE = [  # every command is executed twice, as after a lost reply
    pytest.param("cluster_mode" + _TWICE, marks=_VALKEY),
    pytest.param("valkey_cluster" + _TWICE, marks=_HEAVY),
    pytest.param("plain_redis" + _TWICE, marks=_REDIS),
]
ALSO_TWICE = pytest.mark.parametrize("kind", [*KINDS, *TWICE], indirect=True)


def parted(kind: str) -> tuple[str, bool]:
    """The server's fixture, and whether every command is executed twice."""
    return kind.removesuffix(_TWICE), kind.endswith(_TWICE)
