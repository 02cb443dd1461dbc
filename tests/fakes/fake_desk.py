"""The loading desk of a replica in memory, over the real book."""

from __future__ import annotations

from cluster.metrics.loading import LoadingBook


class FakeDesk:
    """Writes one replica's attempts straight into a book; satisfies ``cluster.replica.loading.Desk``."""

    def __init__(self, book: LoadingBook, *, rank: int = 0, incarnation: str = "abc", node: str = "10.0.0.1") -> None:
        self.book = book
        self.rank = rank
        self.incarnation = incarnation
        self.node = node

    def begin(self) -> None:
        self.book.begin(self.rank, self.incarnation, self.node)

    async def fail(self, reason: str) -> int:
        return self.book.fail(self.rank, self.incarnation, reason)

    def done(self) -> None:
        self.book.done(self.rank)
