"""The token by which the cluster's operator is known to its gateways; tenants' keys do not open what it opens.

It is derived from the secret that all processes of a cluster share already, so there is nothing more to deploy or to
rotate. The secret itself cannot be found from it.
"""

from __future__ import annotations

import hashlib
import hmac


def operator_token(secret: bytes) -> str:
    """64 hexadecimal digits: HMAC-SHA256 of ``operator`` under the channel secret."""
    return hmac.digest(secret, b"operator", hashlib.sha256).hex()
