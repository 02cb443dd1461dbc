"""OpenAI's ``service_tier``: a caller may ask to go later than its tenant's class, never earlier."""

from __future__ import annotations

from typing import Literal

from services.tenants.share import Share

ServiceTier = Literal["auto", "default", "flex"]


def share_in(tier: ServiceTier | None, share: Share) -> Share:
    """What a request in this tier gets of its tenant's share."""
    return share.lowered() if tier == "flex" else share
