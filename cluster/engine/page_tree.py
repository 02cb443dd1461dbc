"""The tree of indexed pages: a path from a root spells a prefix, page by page.

A page's key chains its tokens to its parent's key, down to a root that names model and salt: equal keys mean equal
prefixes of one tenant. Keys, not links, find a child; the links are for what hangs below a page. They run to the
first child and on from sibling to sibling, because most pages have one child and a cache may hold a million pages: a
set of children per page would cost more memory than everything else about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from cluster.engine.page_owner import NOBODY, Owner

KEY_BYTES = 16


@dataclass(slots=True, eq=False)
class Node:
    """An indexed page, or (parent None, page 0) the root of one salt.

    Attributes:
        key: 128 bit digest of the path down to here.
        tokens: the page's token ids as int32 bytes; compared on every hit, the key alone is not trusted.
        owner: whose page it is; see ``page_owner``.
        keep_until: whole seconds on the engine's clock until which somebody wished to find the page again. While it
            lies ahead, a parent's is never before its child's: who releases a page releases its whole path.
    """

    key: bytes
    parent: Node | None
    tokens: bytes
    page: int
    owner: Owner = NOBODY
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


class PageTree:
    """The index of full pages.

    Attributes:
        nodes: by page its node; None if the page is not indexed.
    """

    def __init__(self, *, num_pages: int, model_id: str) -> None:
        self.nodes: list[Node | None] = [None] * num_pages
        self._index: dict[bytes, Node] = {}
        self._model_id = model_id.encode()

    def root_key(self, salt: str) -> bytes:
        """The key of the root whose pages are those of one salt."""
        return digest(len(self._model_id).to_bytes(8, "little"), self._model_id + salt.encode())

    def find(self, parent: Node, tokens: bytes) -> Node | None:
        """The page that continues ``parent`` by ``tokens``."""
        node = self._index.get(digest(parent.key, tokens))
        if node is None or node.parent is not parent or node.tokens != tokens:
            return None
        return node

    def add(self, parent: Node, tokens: bytes, page: int, owner: Owner) -> Node | None:
        """Index ``page`` of ``owner``; returns the node of the page indexed with this content, which may be another.

        None, and nothing is indexed, if another content has the same key.
        """
        key = digest(parent.key, tokens)
        node = self._index.get(key)
        if node is None:
            node = Node(key=key, parent=parent, tokens=tokens, page=page, owner=owner)
            self._index[key] = self.nodes[page] = node
            node.link()
            if parent.owner is not owner:
                owner.heads.add(page)
        elif node.parent is not parent or node.tokens != tokens:
            return None
        return node

    def remove(self, node: Node) -> None:
        """Forget a page without children."""
        node.unlink()
        self.nodes[node.page] = None
        del self._index[node.key]
        node.owner.heads.discard(node.page)

    def hand_over(self, node: Node, owner: Owner) -> None:
        """Make a page another owner's."""
        assert node.parent is not None, "a root belongs to nobody"
        node.owner.heads.discard(node.page)
        node.owner = owner
        if node.parent.owner is not owner:
            owner.heads.add(node.page)

    def owned_by(self, owner: Owner) -> list[Node]:
        """The pages of ``owner``, parents before their children. O(these and their children)."""
        nodes = [node for page in owner.heads if (node := self.nodes[page]) is not None and _is_head(node)]
        for node in nodes:  # grows on the way
            nodes += [child for child in node.children() if child.owner is owner]
        return nodes

    def debug_check(self, roots: Iterable[Node], page_bytes: int) -> None:
        """Assert that the tree below ``roots`` is whole, and every key that of its path. O(pages)."""
        indexed = {node.page: node for node in self._index.values()}
        assert len(indexed) == len(self._index), "two nodes hold one page"
        assert self.nodes == [indexed.get(page) for page in range(len(self.nodes))], "index and pages differ"
        for key, node in self._index.items():
            parent = node.parent
            assert parent is not None, "a root is indexed"
            assert parent.parent is None or self._index.get(parent.key) is parent, "a page outlived its parent"
            assert key == node.key == digest(parent.key, node.tokens), "a key is not that of its path"
            assert len(node.tokens) == page_bytes, "a page is indexed before it is full"
        linked = [(node, child) for node in (*roots, *indexed.values()) for child in node.children()]
        assert all(child.parent is node for node, child in linked), "a page is linked below another than its parent"
        assert Counter(child.page for _, child in linked) == Counter(list(indexed)), "children are miscounted"
        self._check_owners()

    def _check_owners(self) -> None:
        owned: dict[Owner, list[int]] = {}
        for node in self._index.values():
            owned.setdefault(node.owner, []).append(node.page)
        for owner, pages in owned.items():
            assert owner.heads <= set(pages), "an owner names a page that is not its own"
            assert sorted(node.page for node in self.owned_by(owner)) == sorted(pages), "an owner's page is not found"
        assert not NOBODY.heads, "a page belongs to nobody"


def _is_head(node: Node) -> bool:
    """Whether a page does not continue one of its owner's."""
    return node.parent is not None and node.parent.owner is not node.owner


def digest(parent: bytes, tokens: bytes) -> bytes:
    """The key of the page that continues ``parent``."""
    return blake2b(parent + tokens, digest_size=KEY_BYTES).digest()
