"""Block managers with one deliberate mistake each: the tests of the engine must notice every one of them."""

from __future__ import annotations

from array import array
from typing import Any

from cluster.engine.block_manager import BlockManager, BlockTable
from cluster.engine.eviction import Eviction
from cluster.engine.page_tree import Node, PageTree
from cluster.engine.tenant_pages import Tenant
from cluster.protocol import Forgotten


class ForgetsHolders(BlockManager):
    """Counts one holder of a page, however many there are."""

    def _hold(self, tenant: Tenant, node: Node) -> None:
        super()._hold(tenant, node)
        self._refs[node.page] = 1


class FreesIndexedPages(BlockManager):
    """Gives a released page out again while the index still names it."""

    def _retire(self, tenant: Tenant, pages: list[int]) -> None:
        super()._retire(tenant, pages)
        for node in filter(None, (self._tree.nodes[page] for page in pages)):
            self._uncache(tenant, node)
            self._free_page(tenant, node.page)


class IgnoresThePrefix(BlockManager):
    """Takes any page with the same tokens, whatever stands before it."""

    def __init__(self, *, num_pages: int, model_id: str, **options: Any) -> None:
        super().__init__(num_pages=num_pages, model_id=model_id, **options)
        self._tree = _TreeWithoutPrefixes(num_pages=num_pages, model_id=model_id)


class _TreeWithoutPrefixes(PageTree):
    def find(self, parent: Node, tokens: bytes) -> Node | None:
        return next((node for node in self._index.values() if node.tokens == tokens), None)


class IgnoresTheSalt(BlockManager):
    """Lets tenants find each other's pages."""

    def open(self, salt: str, *, weight: float = 1.0, label: str = "") -> BlockTable:
        del salt
        return super().open("everyone", weight=weight, label=label)


class IndexesTooEarly(BlockManager):
    """Indexes the page that is being written as if it were full."""

    def commit(self, table: BlockTable, token_ids: array[int], num_computed: int) -> None:
        end = min(len(table.pages), len(token_ids) // self.page_size) * self.page_size
        super().commit(table, token_ids, max(num_computed, end))


class CoversEverything(BlockManager):
    """Serves the whole prompt from the cache and leaves no token to compute."""

    def extend(self, table: BlockTable, token_ids: array[int]) -> int:
        return super().extend(table, array("i", [*token_ids, 0]))


class ReleasesHeadFirst(BlockManager):
    """Puts a path's first page in front, so that eviction cuts the path in the middle."""

    def release(self, table: BlockTable, *, keep_until: float = 0.0) -> None:
        table.pages.reverse()
        super().release(table, keep_until=keep_until)


class KeepsDuplicates(BlockManager):
    """Keeps its own copy of a page that is indexed already, but counts it as indexed."""

    def _replace(self, table: BlockTable, i: int, node: Node) -> None:
        del table, i, node


class SharesTheNewestPage(BlockManager):
    """Gives the page that it gave last once more."""

    def grow(self, table: BlockTable, num_tokens: int) -> bool:
        before = len(table.pages)
        has_grown = super().grow(table, num_tokens)
        if has_grown and len(table.pages) > before:
            table.pages[-1], self.newest = getattr(self, "newest", table.pages[-1]), table.pages[-1]
        return has_grown


class LeaksTails(BlockManager):
    """Forgets to give back pages that were never full."""

    def _retire(self, tenant: Tenant, pages: list[int]) -> None:
        super()._retire(tenant, [page for page in pages if self._tree.nodes[page] is not None])


class EvictsParentsFirst(BlockManager):
    """Evicts what was used last, so that a parent goes before its child."""

    def _evict(self, num_pages: int) -> None:
        for tenant in self._tenants.values():
            queue = tenant.cached._queues[0]
            for page in list(queue):
                queue.move_to_end(page, last=False)
        super()._evict(num_pages)


class TakesFromTheSmallest(BlockManager):
    """Lets the tenant that holds least for its weight lose pages."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._eviction = _UnfairEviction(self._tenants)


class _UnfairEviction(Eviction):
    def victim(self) -> tuple[Tenant, int]:
        super().victim()
        holders = [tenant for tenant in self._tenants.values() if tenant.cached.num_pages]
        return min(holders, key=lambda tenant: tenant.held / tenant.weight), 1


class IgnoresTheWish(BlockManager):
    """Forgets until when pages should be kept."""

    def release(self, table: BlockTable, *, keep_until: float = 0.0) -> None:
        del keep_until
        super().release(table)


class ForgetsTheCacheOnly(BlockManager):
    """Lets running sequences keep what was to be forgotten."""

    def forget(self, salt: str, label: str) -> Forgotten:
        owner = self._owners.of(salt, label)
        forgotten = super().forget(salt, label)
        owner.is_erased = False
        return forgotten


class LeavesErasedPages(BlockManager):
    """Keeps what was to be forgotten as long as nobody needs the room."""

    def _is_given_up(self, node: Node) -> bool:
        del node
        return False


BROKEN = [
    ForgetsHolders,
    FreesIndexedPages,
    IgnoresThePrefix,
    IgnoresTheSalt,
    IndexesTooEarly,
    CoversEverything,
    ReleasesHeadFirst,
    KeepsDuplicates,
    LeaksTails,
    SharesTheNewestPage,
    EvictsParentsFirst,
    TakesFromTheSmallest,
]
