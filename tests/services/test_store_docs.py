"""The words about stores hold what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.conversations.acl import RULES
from services.conversations.redis_url import parse_url

STORES = Path(__file__).parents[2] / "docs" / "stores.md"


def test_the_rights_in_the_documentation_are_those_that_were_tested() -> None:
    """An operator pastes them."""
    assert f"resetchannels {RULES.removeprefix('resetchannels ')}" in STORES.read_text()


@pytest.mark.parametrize(
    "form", re.findall(r"^\|.*`((?:redis|unix)[^`]*://[^`]*)` \|$", STORES.read_text(), re.MULTILINE)
)
def test_each_form_of_url_in_the_documentation_is_understood(form: str) -> None:
    """With all its optional parts, and with none."""
    written = form.replace(",host,…", ",b").replace(",…", ",b").replace("database", "1")
    assert parse_url(written.translate({ord("["): "", ord("]"): ""}))
    assert parse_url(re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[user.*?@\]", "", written)))
