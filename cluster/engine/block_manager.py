"""Who holds which page of the KV cache, and which pages are kept to be found again.

A page is FREE, ACTIVE (some table holds it) or CACHED (nobody holds it, but the tree can find it). A full page goes
into the tree of its salt as soon as it is computed; see ``page_tree``.

A table holds its whole path. If its newest full page turns out to be indexed already (another sequence computed the
same tokens at the same time), the table takes the indexed page and gives its own back. So a page's parent is always
held at least as long as the page. That and ``release``, which lets the tail go before the head, make eviction cheap:
the oldest cached page of a tenant is always a leaf. Which tenant loses it: ``eviction``; which page: ``tenant_pages``.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from cluster.engine.eviction import Eviction
from cluster.engine.page_owner import Owner, Owners
from cluster.engine.page_tree import Node, PageTree
from cluster.engine.tenant_pages import Tenant, TenantPages
from cluster.engine.tenant_use import OTHER, Counts, TenantLedger, TenantUse
from cluster.protocol import Forgotten

_NOTHING = TenantPages()


@dataclass(slots=True, eq=False)
class BlockTable:
    """The pages of one sequence.

    Attributes:
        owner: whose are the pages that it computes.
        pages: page numbers in order, int32.
        path: the nodes of the leading pages, root first; ``pages[i]`` is ``path[i + 1].page``. Pages beyond the path
            are this table's alone.
        is_counted: whether the hits and misses of its admission are counted.
        misses: prompt pages that the latest lookup did not find.
    """

    tenant: Tenant
    owner: Owner
    pages: array[int] = field(default_factory=lambda: array("i"))
    path: list[Node] = field(init=False)
    is_counted: bool = False
    misses: int = 0

    def __post_init__(self) -> None:
        self.path = [self.tenant]

    @property
    def num_indexed(self) -> int:
        """Leading pages that the index holds."""
        return len(self.path) - 1


class BlockManager:
    """Hands out pages ``1 … num_pages - 1``. Page 0 is the null page, the target of padding writes.

    ``max_named_tenants``: see ``tenant_use``.
    """

    def __init__(self, *, num_pages: int, page_size: int, model_id: str, max_named_tenants: int = 20) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_cached = 0
        self.evicted_pages = 0
        self._free = list(range(num_pages - 1, 0, -1))
        self._refs = [0] * num_pages
        self._tree = PageTree(num_pages=num_pages, model_id=model_id)
        # A tenant lives as long as a table or a page of its salt, so those that left cost nothing.
        self._tenants: WeakValueDictionary[str, Tenant] = WeakValueDictionary()
        self._owners = Owners()
        self._eviction = Eviction(self._tenants)
        self._ledger = TenantLedger(max_named_tenants)
        self._num_uses = 0

    @property
    def num_available(self) -> int:
        """Pages that can be handed out now: FREE and CACHED."""
        return len(self._free) + self.num_cached

    @property
    def num_active(self) -> int:
        """ACTIVE pages."""
        return self.num_pages - 1 - self.num_available

    def pages_for(self, num_tokens: int) -> int:
        """Pages that ``num_tokens`` tokens occupy."""
        return -(-num_tokens // self.page_size)

    def tenants(self) -> dict[str, TenantPages]:
        """The account of every tenant with a table or a page. O(tenants)."""
        return {salt: tenant.pages() for salt, tenant in self._tenants.items()}

    def tenant_use(self) -> dict[str, TenantUse]:
        """The use of every named tenant, and that of all others as ``OTHER``. O(named tenants)."""
        pages = {salt: self._pages_of(salt) for salt in self._ledger.named}
        use = {salt: self._use(counts, pages[salt]) for salt, counts in self._ledger.named.items()}
        cached = self.num_cached - sum([each.cached for each in pages.values()])
        active = self.num_active - sum([each.active for each in pages.values()])
        use[OTHER] = self._use(self._ledger.rest, TenantPages(cached=cached, active=active))
        return use

    def observe(self, now: float) -> None:
        """Take the time, in seconds on the engine's clock; it never goes back."""
        self._eviction.observe(now)

    def open(self, salt: str, *, weight: float = 1.0, label: str = "") -> BlockTable:
        """An empty table whose pages are shared only with tables of the same salt.

        ``weight`` (positive) is the tenant's part of the cache against other tenants; the latest one given counts.
        What the table computes can be forgotten by its ``label``.
        """
        tenant = self._tenants.get(salt)
        if tenant is None:
            key = self._tree.root_key(salt)
            tenant = self._tenants[salt] = Tenant(key=key, parent=None, tokens=b"", page=0, salt=salt)
        if tenant.weight != weight:
            tenant.weight = weight
            self._eviction.note(salt)
        return BlockTable(tenant, self._owners.of(salt, label))

    def extend(self, table: BlockTable, token_ids: array[int]) -> int:
        """Append the cached pages that continue ``table``; returns the tokens they hold.

        At least one token of ``token_ids`` stays uncovered: without computing one there are no logits. A table with
        unindexed pages is left as it is.
        """
        size, first = self.page_size, len(table.pages)
        if table.num_indexed < first:
            return 0
        end = (len(token_ids) - 1) // size
        for i in range(first, end):
            node = self._tree.find(table.path[-1], token_ids[i * size : (i + 1) * size].tobytes())
            if node is None:
                break
            self._hold(table.tenant, node)
            table.pages.append(node.page)
            table.path.append(node)
        num_found = len(table.pages) - first
        table.misses = end - first - num_found
        if num_found:
            self._eviction.note(table.tenant.salt)
        return num_found * size

    def grow(self, table: BlockTable, num_tokens: int) -> bool:
        """Give ``table`` pages for ``num_tokens`` tokens in all; False, and nothing changed, if there are too few.

        The first pages that a table gets are its admission: what was found for it, and what was not, is counted.
        """
        needed = self.pages_for(num_tokens) - len(table.pages)
        if needed <= 0:
            return True
        if needed > self.num_available:
            return False
        table.tenant.held += needed  # first of all, so that who asks pays before others do
        self._eviction.note(table.tenant.salt)
        self._count_lookup(table)
        self._evict(needed - len(self._free))
        for _ in range(needed):
            page = self._free.pop()
            self._refs[page] = 1
            table.pages.append(page)
        return True

    def commit(self, table: BlockTable, token_ids: array[int], num_computed: int) -> None:
        """Index the pages of ``table`` that the first ``num_computed`` tokens fill."""
        size = self.page_size
        for i in range(table.num_indexed, num_computed // size):
            tokens = token_ids[i * size : (i + 1) * size].tobytes()
            node = self._tree.add(table.path[-1], tokens, table.pages[i], table.owner)
            if node is None:  # two prefixes with one digest: the second is served, but not kept
                return
            if node.page != table.pages[i]:
                self._replace(table, i, node)
            table.path.append(node)

    def release(self, table: BlockTable, *, keep_until: float = 0.0) -> None:
        """Empty ``table``. Indexed pages that nobody else holds become CACHED, others FREE.

        ``keep_until`` (finite, seconds on the engine's clock) is a wish: until then these pages go after those
        without one, but not at the cost of a tenant that has less than its share.
        """
        if keep_until > self._eviction.now:
            second = math.ceil(keep_until)
            for node in table.path[1:]:
                node.keep_until = max(node.keep_until, second)
        unheld = []
        while table.pages:  # tail first: see the module's docstring
            page = table.pages.pop()
            self._refs[page] -= 1
            if not self._refs[page]:
                unheld.append(page)
        del table.path[1:]
        self._retire(table.tenant, unheld)
        self._eviction.note(table.tenant.salt)

    def discard(self, table: BlockTable) -> None:
        """Empty ``table`` and forget its pages, because their contents are in doubt (NaN, a failed step).

        Cached pages that continue them go too, or a bad page would stay for their sake. A page that another table
        holds stays; if it is bad, that table fails in turn and takes it along. O(what hangs below the table's pages).
        """
        for node in reversed(self._cached_below(table.path[1:])):
            self._uncache(table.tenant, node)
            self._free_page(table.tenant, node.page)
            self._tree.remove(node)
        for node in reversed(table.path[1:]):
            if self._refs[node.page] == 1:
                self._tree.remove(node)
        self.release(table)

    def _cached_below(self, nodes: list[Node]) -> list[Node]:
        """The CACHED descendants of ``nodes``, parents before their children."""
        found, unvisited = [], list(nodes)
        while unvisited:
            cached = [child for child in unvisited.pop().children() if not self._refs[child.page]]
            found += cached
            unvisited += cached
        return found

    def forget(self, salt: str, label: str) -> Forgotten:
        """Free the pages that tables of this salt and label have computed; those in use when their last holder leaves.

        A page that pages of another label continue is as much theirs: it stays, and goes when theirs are forgotten. A
        free page cannot be found, and whoever gets it writes each of its slots before reading it; its bytes stay until
        then. O(pages of the label).
        """
        owner, tenant = self._owners.erase(salt, label), self._tenants.get(salt)
        if owner is None or tenant is None:
            return Forgotten()
        num_dropped = num_held = 0
        for node in reversed(self._tree.owned_by(owner)):
            if self._refs[node.page]:
                num_held += 1
            elif self._is_given_up(node):
                self._uncache(tenant, node)
                self._free_page(tenant, node.page)
                num_dropped += 1
        self._eviction.note(salt)
        return Forgotten(dropped=num_dropped, held=num_held)

    def _is_given_up(self, node: Node) -> bool:
        """Whether nobody needs an erased owner's page, which is then no longer indexed; else it is another's now.

        Nobody holds it, hence nobody holds what continues it; there, all that belonged to erased owners is gone.
        """
        heir = node.first_child
        if heir is None:
            self._tree.remove(node)
            return True
        self._tree.hand_over(node, heir.owner)
        return False

    def clear_cache(self) -> None:
        """Forget every page that nobody holds."""
        self._evict(self.num_cached)

    def _count_lookup(self, table: BlockTable) -> None:
        if table.is_counted:
            return
        table.is_counted = True
        self._ledger.note_lookup(table.tenant.salt, hits=table.num_indexed, misses=table.misses)

    def _pages_of(self, salt: str) -> TenantPages:
        tenant = self._tenants.get(salt)
        return _NOTHING if tenant is None else tenant.pages()

    def _use(self, counts: Counts, pages: TenantPages) -> TenantUse:
        return TenantUse(
            active_pages=pages.active,
            cached_pages=pages.cached,
            hit_tokens=counts.hits * self.page_size,
            miss_tokens=counts.misses * self.page_size,
            evicted_pages=counts.evicted,
        )

    def _replace(self, table: BlockTable, i: int, node: Node) -> None:
        """Swap page ``i`` of ``table``, held by it alone, for the indexed page of equal content."""
        own, table.pages[i] = table.pages[i], node.page
        self._hold(table.tenant, node)
        self._refs[own] = 0
        self._free_page(table.tenant, own)
        self._eviction.note(table.tenant.salt)

    def _hold(self, tenant: Tenant, node: Node) -> None:
        if not self._refs[node.page]:
            self._uncache(tenant, node)
        self._refs[node.page] += 1

    def _uncache(self, tenant: Tenant, node: Node) -> None:
        tenant.cached.remove(node.page, node.keep_until)
        self.num_cached -= 1

    def _retire(self, tenant: Tenant, pages: list[int]) -> None:
        """Make pages that nobody holds any more CACHED if they are indexed, else FREE."""
        now, before = self._eviction.now, tenant.cached.num_pages
        for page in pages:
            node = self._tree.nodes[page]
            if node is None or (node.owner.is_erased and self._is_given_up(node)):
                self._free_page(tenant, page)
                continue
            if node.keep_until <= now:
                node.keep_until = 0
            self._num_uses += 1
            if tenant.cached.add(page, self._num_uses, node.keep_until):
                self._eviction.note_end(node.keep_until, tenant.salt)
        self.num_cached += tenant.cached.num_pages - before

    def _free_page(self, tenant: Tenant, page: int) -> None:
        self._free.append(page)
        tenant.held -= 1

    def _evict(self, num_pages: int) -> None:
        """Make ``num_pages`` CACHED pages FREE."""
        while num_pages > 0:
            tenant, most = self._eviction.victim()
            pages = tenant.cached.pop(self._eviction.now, min(most, num_pages))
            for page in pages:
                node = self._tree.nodes[page]
                assert node is not None, "a cached page is indexed"
                self._tree.remove(node)
            self._free += pages
            tenant.held -= len(pages)
            self._ledger.note_evicted(tenant.salt, len(pages))
            self._eviction.note(tenant.salt)
            self.num_cached -= len(pages)
            self.evicted_pages += len(pages)
            num_pages -= len(pages)

    def debug_check(self, tables: Iterable[BlockTable]) -> None:
        """Assert every invariant, given all tables there are. O(pages); for tests."""
        held = list(tables)
        self._check_states(held)
        self._tree.debug_check(self._tenants.values(), self.page_size * array("i").itemsize)
        self._owners.debug_check()
        for tenant in self._tenants.values():
            self._check_tenant(tenant, [table for table in held if table.tenant is tenant])
        for table in held:
            self._check_table(table)
        self._eviction.debug_check()

    def _check_states(self, tables: list[BlockTable]) -> None:
        refs = Counter(page for table in tables for page in table.pages)
        assert self._refs == [refs[page] for page in range(self.num_pages)], "a count differs from the tables"
        cached = [page for tenant in self._tenants.values() for page in tenant.cached]
        states = [*self._free, *cached, *refs]
        assert sorted(states) == list(range(1, self.num_pages)), "a page is lost, or in two states"
        assert self.num_cached == len(cached), "cached pages are miscounted"

    def _check_tenant(self, tenant: Tenant, tables: list[BlockTable]) -> None:
        active = {page for table in tables for page in table.pages}
        assert tenant.held == len(active) + tenant.cached.num_pages, "pages of a tenant are miscounted"
        tenant.cached.debug_check(self._tree.nodes)
        order = {page: i for i, page in enumerate(tenant.cached.in_order(self._eviction.now))}
        for page, rank in order.items():
            node = self._tree.nodes[page]
            assert node is not None, "a cached page is not indexed"
            assert not node.owner.is_erased, "a page of an erased owner is kept"
            parent = node.parent
            assert parent is not None, "a root is cached"
            assert order.get(parent.page, self.num_pages) > rank, "a page could go before its child"
            is_kept = parent is tenant or node.keep_until <= max(parent.keep_until, self._eviction.now)
            assert is_kept, "a page is kept longer than its parent"

    def _check_table(self, table: BlockTable) -> None:
        assert any(table.path[0] is tenant for tenant in self._tenants.values()), "a salt has two roots"
        assert table.path[0] is table.tenant, "a table is of another tenant than its path"
        for parent, node, page in zip(table.path, table.path[1:], table.pages, strict=False):
            assert node.parent is parent, "a table leaves its path, or its salt"
            assert self._tree.nodes[page] is node, "a table and its path differ"
            assert node.page == page, "a table and its path differ"
        for page in table.pages[table.num_indexed :]:
            assert self._refs[page] == 1, "a page being written is shared"
            assert self._tree.nodes[page] is None, "a page being written is indexed"
