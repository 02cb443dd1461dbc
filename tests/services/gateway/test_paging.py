"""Pages of items that are all at hand are those that the store would give."""

from __future__ import annotations

from typing import Literal

import pytest

from cluster.errors import NotFoundError
from services.conversations.records import Item
from services.gateway.schemas.conversations import PageQuery
from services.gateway.schemas.paging import page_of

NAMES = ["a", "b", "c", "d", "e"]
ITEMS = [Item(id=name, role="user", text=name) for name in NAMES]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", range(1, 7))
def test_pages_lead_on_and_back(order: Literal["asc", "desc"], limit: int) -> None:
    """``after`` an item come the next of the order, ``before`` it the last in front of it, in the same order."""
    ordered = NAMES if order == "asc" else NAMES[::-1]
    for place, name in enumerate(ordered):
        on = page_of(ITEMS, PageQuery(after=name, limit=str(limit), order=order))
        back = page_of(ITEMS, PageQuery(before=name, limit=str(limit), order=order))
        behind, in_front = ordered[place + 1 :], ordered[:place]
        assert ([item.id for item in on.data], on.has_more) == (behind[:limit], len(behind) > limit)
        assert ([item.id for item in back.data], back.has_more) == (in_front[-limit:], len(in_front) > limit)


def test_an_empty_page_has_empty_ids() -> None:
    """As the store's."""
    page = page_of([], PageQuery())
    assert (page.data, page.first_id, page.last_id, page.has_more) == ([], "", "", False)


@pytest.mark.parametrize("cursor", ["after", "before"])
def test_an_unknown_cursor_is_not_found(cursor: str) -> None:
    """In either direction."""
    with pytest.raises(NotFoundError, match="x"):
        page_of(ITEMS, PageQuery.model_validate({cursor: "x"}))
