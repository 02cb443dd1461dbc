"""Who holds which page of the KV cache, and which pages are kept to be found again.

A page is FREE, ACTIVE (some table holds it) or CACHED (nobody holds it, but the index can find it). A full page is
indexed as soon as it is computed, under a key that chains its tokens to its parent's key, down to a root that names
model and salt: equal keys mean equal prefixes of one tenant. The index is therefore a tree of pages.

A table holds its whole path. If its newest full page turns out to be indexed already (another sequence computed the
same tokens at the same time), the table takes the indexed page and gives its own back. So a page's parent is always
held at least as long as the page, and because ``release`` puts the tail into the LRU before the head, the oldest
cached page is always a leaf: eviction is O(1) and never cuts a path in the middle.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from weakref import WeakValueDictionary

KEY_BYTES = 16


@dataclass(slots=True, eq=False, weakref_slot=True)
class Node:
    """An indexed page, or (parent None, page 0) the root of one salt.

    Attributes:
        key: 128 bit digest of the path down to here.
        tokens: the page's token ids as int32 bytes; compared on every hit, the key alone is not trusted.
        num_children: indexed pages that follow this one.
        weight: of a root, its tenant's part of the cache.
        keep_until: seconds on the engine's clock until which somebody wished to find the page again.
    """

    key: bytes
    parent: Node | None
    tokens: bytes
    page: int
    num_children: int = 0
    weight: float = 1.0
    keep_until: float = 0.0


@dataclass(slots=True, eq=False)
class BlockTable:
    """The pages of one sequence.

    Attributes:
        pages: page numbers in order, int32.
        path: the nodes of the leading pages, root first; ``pages[i]`` is ``path[i + 1].page``. Pages beyond the path
            are this table's alone.
    """

    path: list[Node]
    pages: array[int] = field(default_factory=lambda: array("i"))

    @property
    def num_indexed(self) -> int:
        """Leading pages that the index holds."""
        return len(self.path) - 1


class BlockManager:
    """Hands out pages ``1 … num_pages - 1``. Page 0 is the null page, the target of padding writes."""

    def __init__(self, *, num_pages: int, page_size: int, model_id: str) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.evicted_pages = 0
        self._now = 0.0
        self._model_id = model_id.encode()
        self._free = list(range(num_pages - 1, 0, -1))
        self._refs = [0] * num_pages
        self._nodes: list[Node | None] = [None] * num_pages
        self._index: dict[bytes, Node] = {}
        self._lru: OrderedDict[int, None] = OrderedDict()  # CACHED pages, longest unused first
        # A root lives as long as a table or a page of its salt, so tenants that left cost nothing.
        self._roots: WeakValueDictionary[str, Node] = WeakValueDictionary()

    @property
    def num_available(self) -> int:
        """Pages that can be handed out now: FREE and CACHED."""
        return len(self._free) + len(self._lru)

    @property
    def num_cached(self) -> int:
        """CACHED pages."""
        return len(self._lru)

    @property
    def num_active(self) -> int:
        """ACTIVE pages."""
        return self.num_pages - 1 - self.num_available

    def pages_for(self, num_tokens: int) -> int:
        """Pages that ``num_tokens`` tokens occupy."""
        return -(-num_tokens // self.page_size)

    def observe(self, now: float) -> None:
        """Take the time, in seconds on the engine's clock; it never goes back."""
        self._now = max(self._now, now)

    def open(self, salt: str, *, weight: float = 1.0) -> BlockTable:
        """An empty table whose pages are shared only with tables of the same salt.

        ``weight`` (positive) is the tenant's part of the cache against other tenants; the latest one given counts.
        """
        root = self._roots.get(salt)
        if root is None:
            key = _digest(len(self._model_id).to_bytes(8, "little"), self._model_id + salt.encode())
            root = self._roots[salt] = Node(key=key, parent=None, tokens=b"", page=0)
        root.weight = weight
        return BlockTable(path=[root])

    def extend(self, table: BlockTable, token_ids: array[int]) -> int:
        """Append the cached pages that continue ``table``; returns the tokens they hold.

        At least one token of ``token_ids`` stays uncovered: without computing one there are no logits. A table with
        unindexed pages is left as it is.
        """
        first = len(table.pages)
        if table.num_indexed < first:
            return 0
        for i in range(first, (len(token_ids) - 1) // self.page_size):
            node = self._find(table.path[-1], self._page_tokens(token_ids, i))
            if node is None:
                break
            self._hold(node.page)
            table.pages.append(node.page)
            table.path.append(node)
        return (len(table.pages) - first) * self.page_size

    def grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Give ``table`` pages for ``num_tokens`` tokens in all; False, and nothing changed, if there are too few."""
        needed = self.pages_for(num_tokens) - len(table.pages)
        if needed > self.num_available:
            return False
        for _ in range(needed):
            page = self._free.pop() if self._free else self._evict()
            self._refs[page] = 1
            table.pages.append(page)
        return True

    def commit(self, table: BlockTable, token_ids: array[int], num_computed: int) -> None:
        """Index the pages of ``table`` that the first ``num_computed`` tokens fill."""
        for i in range(table.num_indexed, num_computed // self.page_size):
            if not self._commit_page(table, i, self._page_tokens(token_ids, i)):
                return

    def release(self, table: BlockTable, *, keep_until: float = 0.0) -> None:
        """Empty ``table``. Indexed pages that nobody else holds become CACHED, others FREE.

        ``keep_until`` (seconds on the engine's clock) is a wish: until then its pages go after those without one.
        """
        for node in table.path[1:]:
            node.keep_until = max(node.keep_until, keep_until)
        while table.pages:  # tail first: see the module's docstring
            page = table.pages.pop()
            self._refs[page] -= 1
            if not self._refs[page]:
                self._retire(page)
        del table.path[1:]

    def discard(self, table: BlockTable) -> None:
        """Empty ``table`` and forget its pages, because their contents are in doubt (NaN, a failed step).

        Cached pages that continue them go too, or a bad page would stay for their sake. A page that another table
        holds stays; if it is bad, that table fails in turn and takes it along. O(cached pages).
        """
        for node in reversed(self._cached_below(table.path[1:])):
            del self._lru[node.page]
            self._unindex(node)
            self._free.append(node.page)
        for node in reversed(table.path[1:]):
            if self._refs[node.page] == 1:
                self._unindex(node)
        self.release(table)

    def _cached_below(self, nodes: list[Node]) -> list[Node]:
        """The CACHED descendants of ``nodes``, parents before their children."""
        above, found = set(nodes), []
        for page in reversed(self._lru):  # children were released before their parents
            node = self._nodes[page]
            if node is not None and node.parent in above:
                above.add(node)
                found.append(node)
        return found

    def clear_cache(self) -> None:
        """Forget every page that nobody holds."""
        while self._lru:
            self._free.append(self._evict())

    def _commit_page(self, table: BlockTable, i: int, tokens: bytes) -> bool:
        parent = table.path[-1]
        key = _digest(parent.key, tokens)
        node = self._index.get(key)
        if node is None:
            node = Node(key=key, parent=parent, tokens=tokens, page=table.pages[i])
            self._index[key] = self._nodes[node.page] = node
            parent.num_children += 1
        elif node.parent is not parent or node.tokens != tokens:
            return False  # two prefixes with one digest: the second is served, but not kept
        else:
            self._replace(table, i, node.page)
        table.path.append(node)
        return True

    def _replace(self, table: BlockTable, i: int, page: int) -> None:
        """Swap page ``i`` of ``table``, held by it alone, for ``page`` of equal content."""
        own, table.pages[i] = table.pages[i], page
        self._hold(page)
        self._refs[own] = 0
        self._free.append(own)

    def _find(self, parent: Node, tokens: bytes) -> Node | None:
        node = self._index.get(_digest(parent.key, tokens))
        if node is None or node.parent is not parent or node.tokens != tokens:
            return None
        return node

    def _hold(self, page: int) -> None:
        if not self._refs[page]:
            del self._lru[page]
        self._refs[page] += 1

    def _retire(self, page: int) -> None:
        if self._nodes[page] is None:
            self._free.append(page)
        else:
            self._lru[page] = None

    def _evict(self) -> int:
        page, _ = self._lru.popitem(last=False)
        node = self._nodes[page]
        assert node is not None, "a cached page is indexed"
        self._unindex(node)
        self.evicted_pages += 1
        return page

    def _unindex(self, node: Node) -> None:
        assert node.parent is not None, "roots are not indexed"
        node.parent.num_children -= 1
        self._nodes[node.page] = None
        del self._index[node.key]

    def _page_tokens(self, token_ids: array[int], i: int) -> bytes:
        return token_ids[i * self.page_size : (i + 1) * self.page_size].tobytes()

    def debug_check(self, tables: Iterable[BlockTable]) -> None:
        """Assert every invariant, given all tables there are. O(pages); for tests."""
        held = list(tables)
        self._check_states(held)
        self._check_tree()
        self._check_lru()
        for table in held:
            self._check_table(table)

    def _check_states(self, tables: list[BlockTable]) -> None:
        refs = Counter(page for table in tables for page in table.pages)
        assert self._refs == [refs[page] for page in range(self.num_pages)], "a count differs from the tables"
        states = [*self._free, *self._lru, *refs]
        assert sorted(states) == list(range(1, self.num_pages)), "a page is lost, or in two states"

    def _check_tree(self) -> None:
        indexed = {node.page: node for node in self._index.values()}
        assert len(indexed) == len(self._index), "two nodes hold one page"
        assert self._nodes == [indexed.get(page) for page in range(self.num_pages)], "index and pages differ"
        children = Counter(node.parent for node in self._index.values())
        for key, node in self._index.items():
            parent = node.parent
            assert parent is not None, "a root is indexed"
            assert parent.parent is None or self._index.get(parent.key) is parent, "a page outlived its parent"
            assert key == node.key == _digest(parent.key, node.tokens), "a key is not that of its path"
            assert len(node.tokens) == self.page_size * array("i").itemsize, "a page is indexed before it is full"
        for node in (*self._roots.values(), *self._index.values()):
            assert node.num_children == children[node], "children are miscounted"

    def _check_lru(self) -> None:
        age = {page: i for i, page in enumerate(self._lru)}
        for node in self._index.values():
            parent = node.parent
            if parent is not None and parent.page in age:
                assert age.get(node.page, self.num_pages) < age[parent.page], "a page could go before its child"

    def _check_table(self, table: BlockTable) -> None:
        root = table.path[0]
        assert any(root is known for known in self._roots.values()), "a salt has two roots"
        for parent, node, page in zip(table.path, table.path[1:], table.pages, strict=False):
            assert node.parent is parent, "a table leaves its path, or its salt"
            assert node.page == page == self._nodes_page(node), "a table and its path differ"
        for page in table.pages[table.num_indexed :]:
            assert self._refs[page] == 1, "a page being written is shared"
            assert self._nodes[page] is None, "a page being written is indexed"

    def _nodes_page(self, node: Node) -> int:
        return node.page if self._nodes[node.page] is node else 0


def _digest(parent: bytes, tokens: bytes) -> bytes:
    return blake2b(parent + tokens, digest_size=KEY_BYTES).digest()
