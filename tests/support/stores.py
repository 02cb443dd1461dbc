"""Which stores a contract is tested on: memory, and Valkey and Redis, each plain and as a cluster."""

from __future__ import annotations

import shutil

import pytest

REDIS = shutil.which("redis-server") or ""
_VALKEY = [pytest.mark.valkey]
_REDIS = [pytest.mark.valkey, pytest.mark.skipif(not REDIS, reason="no redis-server on this machine")]

KINDS = [
    "memory",
    pytest.param("valkey", marks=_VALKEY),
    pytest.param("valkey-cluster", marks=_VALKEY),  # of one node, which refuses what spans slots
    pytest.param("redis", marks=_REDIS),
    pytest.param("redis-cluster", marks=_REDIS),
]
TWICE = [  # every command is executed twice, as after a lost reply
    pytest.param("valkey-cluster-twice", marks=_VALKEY),
    pytest.param("redis-twice", marks=_REDIS),
]
ALSO_TWICE = pytest.mark.parametrize("kind", [*KINDS, *TWICE], indirect=True)
