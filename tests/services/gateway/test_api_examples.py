"""The examples of docs/api.md run as they stand; only the address is the test's."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.tenants.memory_keys import MemoryKeyStore
from tests.support.cutting_proxy import CuttingProxy
from tests.support.pages import Page
from tests.support.whole_gateway import whole_gateway

PAGE = Page("docs/api.md")
ADDRESS = "http://127.0.0.1:8000"
SAID = "tokens, hello."


@pytest.fixture
async def url(keys: MemoryKeyStore) -> AsyncIterator[str]:
    """A gateway that serves the model of the examples."""
    async with whole_gateway(keys, model="chatglm3-demo") as url:
        yield url


async def run(script: Path, language: str, url: str, key: str, *command: str) -> list[str]:
    """The lines that all examples in one language print, run in order as one script."""
    script.write_text("\n".join(PAGE.blocks(language)).replace(ADDRESS, url))  # noqa: ASYNC240 - a small file
    environment = {**os.environ, "CHATGLM_API_KEY": key}
    process = await asyncio.create_subprocess_exec(
        *command, str(script), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=script.parent,
    )  # fmt: skip
    async with asyncio.timeout(60):
        told, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return told.decode().splitlines()


async def test_the_shells_examples(url: str, key: str, tmp_path: Path) -> None:
    """A turn that is sent twice is one; a stream is picked up behind an event."""
    lines = await run(tmp_path / "examples.sh", "bash", url, key, "bash", "-euo", "pipefail")
    numbers = [int(line.removeprefix("id: ").partition(".")[0]) for line in lines if line.startswith("id: ")]
    assert numbers == list(range(3, 3 + len(numbers)))
    assert "event: response.completed" in lines


async def test_the_python_examples(url: str, key: str, tmp_path: Path) -> None:
    """A turn in the background, and two branches of one answer."""
    job, *branches = await run(tmp_path / "examples.py", "python", url, key, sys.executable)
    assert job.startswith("completed After ")
    assert [branch.endswith(SAID) for branch in branches] == [True, True]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("after", [300, 1_500, 2_500])
async def test_the_example_in_javascript_survives_two_breaks(url: str, key: str, tmp_path: Path, after: int) -> None:
    """Cut in the headers, before and behind the first event that it knows its turn by."""
    proxy = CuttingProxy(url, cuts=2, after=after)
    async with proxy.running() as broken:
        (line,) = await run(tmp_path / "example.mjs", "js", broken, key, "node")
    assert line.startswith("completed After ")
    assert line.endswith(SAID)
    assert line.count("After") == 1
    assert proxy.connections == 3
