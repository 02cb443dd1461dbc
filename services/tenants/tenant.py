"""Who a request belongs to. The first key made for an id makes the tenant; all that is stored of it is its share.

The id becomes part of every key and salts the KV cache, so its alphabet is narrow: nothing in it can end a key's part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cluster.errors import InvalidRequestError
from services.tenants.share import DEFAULT, Share

_ID: Final = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of a request. ``name`` is for people; for now it is the id."""

    id: str
    name: str
    share: Share = DEFAULT


def check_tenant_id(tenant: str) -> None:
    """Raises InvalidRequestError (param ``tenant``) unless the id is 1 to 32 of a-z, 0-9 and '-'."""
    if _ID.fullmatch(tenant) is None:
        raise InvalidRequestError("A tenant id is 1 to 32 of a-z, 0-9 and '-'.", param="tenant")
