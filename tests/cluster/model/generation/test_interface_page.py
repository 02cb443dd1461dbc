"""The examples of docs/interface.md run, in order, as they stand; its translations say as much."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.parity.recorded import DATA

ROOT = Path(__file__).parents[4]
DOCS = ROOT / "docs"
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"`([^`]+)`")
PAGES = sorted(DOCS.glob("interface*.md"))
ENGLISH = DOCS / "interface.md"
TRANSLATIONS = [page for page in PAGES if page != ENGLISH]


def examples_of(page: Path) -> list[str]:
    """Python blocks, in order."""
    return _EXAMPLE.findall(page.read_text(encoding="utf-8"))


def code_of(page: Path) -> list[str]:
    """What the examples do, comments aside."""
    return [ast.dump(ast.parse(example)) for example in examples_of(page)]


def names_of(page: Path) -> set[str]:
    """Parameters, errors, calls and values that the text speaks of."""
    prose = _EXAMPLE.sub("", page.read_text(encoding="utf-8"))
    return {" ".join(name.split()) for name in _NAME.findall(prose)}


def outline_of(page: Path) -> list[str]:
    """How each line of a heading or table begins, the cells of a table's row counted."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [f"{line[:1]}{line.count(' | ')}" for line in lines if line.startswith(("#", "|"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    """On the small model; each example sees what those before it have made."""
    monkeypatch.chdir(tmp_path)
    examples = examples_of(page)
    assert len(examples) >= 8
    names = {"path": str(DATA / "tiny")}
    for example in examples:
        exec(compile(example, page.name, "exec"), names)  # noqa: S102  # our own page


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_a_translation_says_what_the_english_page_says(page):
    """The same examples, headings, tables and names; only words differ."""
    assert code_of(page) == code_of(ENGLISH)
    assert outline_of(page) == outline_of(ENGLISH)
    assert names_of(page) == names_of(ENGLISH)


def test_the_page_is_there_in_three_languages():
    """Each page links the two others at its top."""
    assert [page.name for page in PAGES] == ["interface.md", "interface.ru.md", "interface.zh.md"]
    for page in PAGES:
        top = page.read_text(encoding="utf-8").splitlines()[0]
        assert [other.name for other in PAGES if f"]({other.name})" not in top] == [page.name]


def test_the_readmes_example_prints_what_it_says(monkeypatch, capsys):
    """On the demo model, from the repository's root; the comment is the whole output."""
    monkeypatch.chdir(ROOT)
    example = examples_of(ROOT / "README.md")[-1]
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102  # see above
    assert capsys.readouterr().out == example.splitlines()[-1].removeprefix("# ") + "\n"
