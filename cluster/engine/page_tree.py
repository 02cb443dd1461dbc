"""The tree of indexed pages: a path from a root spells a prefix, page by page.

A node knows its children through links between siblings, because most pages have one child and a cache may hold a
million pages: a set per page would cost more memory than everything else about it. Keys, not links, find a child;
the links are for what hangs below a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Node:
    """An indexed page, or (parent None, page 0) the root of one salt.

    Attributes:
        key: 128 bit digest of the path down to here.
        tokens: the page's token ids as int32 bytes; compared on every hit, the key alone is not trusted.
        keep_until: whole seconds on the engine's clock until which somebody wished to find the page again. While it
            lies ahead, a parent's is never before its child's: who releases a page releases its whole path.
    """

    key: bytes
    parent: Node | None
    tokens: bytes
    page: int
    keep_until: int = 0
    first_child: Node | None = field(default=None, repr=False)
    next_sibling: Node | None = field(default=None, repr=False)
    previous_sibling: Node | None = field(default=None, repr=False)

    def children(self) -> Iterator[Node]:
        """The indexed pages that follow this one, in no order."""
        child = self.first_child
        while child is not None:
            yield child
            child = child.next_sibling

    def link(self) -> None:
        """Become a child of the parent."""
        assert self.parent is not None, "a root has no parent"
        sibling = self.parent.first_child
        self.next_sibling = sibling
        if sibling is not None:
            sibling.previous_sibling = self
        self.parent.first_child = self

    def unlink(self) -> None:
        """Leave the parent; a page goes after all its children."""
        assert self.parent is not None, "a root is never unlinked"
        assert self.first_child is None, "a page goes before its child"
        before, after = self.previous_sibling, self.next_sibling
        if before is None:
            self.parent.first_child = after
        else:
            before.next_sibling = after
        if after is not None:
            after.previous_sibling = before
        self.previous_sibling = self.next_sibling = None
