"""Pages of documentation: their sections, tables and examples."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CODE = re.compile(r"`([^`]+)`")


class Page:
    """One Markdown page."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / name).read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[str]:
        """Code blocks of one language, in order."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)

    def section(self, heading: str) -> str:
        """What stands under a heading, with what stands under smaller ones."""
        level = heading.split(" ", 1)[0]
        text = self.text[self.text.index(f"\n{heading}\n") :].removeprefix(f"\n{heading}\n")
        return re.split(rf"^#{{1,{len(level)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]

    def rows(self, heading: str) -> list[list[str]]:
        """The cells of the rows of all tables under a heading, without what heads the tables."""
        lines = self.section(heading).splitlines()
        rows = [line for line, after in zip(lines, [*lines[1:], ""], strict=True) if not after.startswith("|---")]
        table = [line for line in rows if line.startswith("| ")]
        return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def names_in(text: str) -> list[str]:
    """What is written as code."""
    return _CODE.findall(text)
