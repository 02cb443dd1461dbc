"""What the published model's own code was recorded to do with text; see tests/parity/data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2] / "parity" / "data"
TINY = DATA / "tiny"


def load(name: str) -> dict[str, Any]:
    return json.loads((DATA / "goldens" / f"{name}.json").read_text(encoding="utf-8"))


PUBLISHED = load("tokenizer_real")
_TINY_CHATS = {name: load(name) for name in ("chat_tiny", "scripted_chat_tiny")}


def turns(*modes: str) -> list[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """Every recorded turn of the tiny model in the given modes: a name, the history before it, and the turn."""
    return [
        (f"{name}-{mode}-{case['name']}-{number}", history, turn)
        for name, chats in _TINY_CHATS.items()
        for mode in modes
        for case in chats.get(mode, [])
        for number, (history, turn) in enumerate(_with_history(case))
    ]


def _with_history(case: dict[str, Any]) -> list[tuple[list[dict[str, Any]], dict[str, Any]]]:
    before = [case["start_history"], *(turn["history_after"] for turn in case["turns"])]
    return list(zip(before, case["turns"], strict=False))
