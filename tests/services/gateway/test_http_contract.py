"""The gateway keeps to its own document, whatever is sent: schemathesis makes the requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.tenants.memory_keys import MemoryKeyStore
from tests.support.http_contract import Run
from tests.support.whole_gateway import whole_gateway


@pytest.fixture
async def run(keys: MemoryKeyStore, key: str, tmp_path: Path) -> AsyncIterator[Run]:
    """Against a real server."""
    async with whole_gateway(keys) as url:
        yield Run(url, tmp_path, key=key)


async def test_requests_at_every_bound(run: Run) -> None:
    """Each field at and beyond its bounds, each method, no key and a wrong one: no 5xx, nothing undocumented."""
    await run.check("examples", "coverage", seconds=4)


@pytest.mark.heavy
@pytest.mark.timeout(600)
async def test_five_minutes_of_any_requests(run: Run) -> None:
    """Random requests too, and random walks along the document's links."""
    await run.check("examples", "coverage", "fuzzing", "stateful", seconds=300)
