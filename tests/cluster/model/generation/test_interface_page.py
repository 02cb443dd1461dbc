"""The examples of docs/interface.md run, in order, as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.parity.recorded import DATA

DOCS = Path(__file__).parents[4] / "docs"
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(DOCS.glob("interface*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    """On the small model; each example sees what those before it have made."""
    monkeypatch.chdir(tmp_path)
    examples = _EXAMPLE.findall(page.read_text(encoding="utf-8"))
    assert len(examples) >= 8
    names = {"path": str(DATA / "tiny")}
    for example in examples:
        exec(compile(example, page.name, "exec"), names)  # noqa: S102  # our own page
