"""What a deletion says of the KV that went with what was deleted."""

from __future__ import annotations

from services.backend.base import Erased
from services.gateway.schemas.base import Shape


class ErasedPages(Shape):
    """What became of the KV of something erased. Missed replicas are told again until they answer or are replaced."""

    kv_pages: int  # dropped by the replicas that answered
    kv_pages_in_use: int  # held by running turns; dropped when these end
    replicas: int  # that answered
    replicas_missed: int

    @classmethod
    def of(cls, erased: Erased) -> ErasedPages:
        """From what the replicas said."""
        return cls(
            kv_pages=erased.dropped,
            kv_pages_in_use=erased.held,
            replicas=len(erased.reached),
            replicas_missed=len(erased.missed),
        )
