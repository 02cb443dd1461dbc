"""API keys: ``sk-<key id><secret>``, and the store that remembers who they belong to.

A stored key is the SHA-256 of its secret. A slow hash (argon2, bcrypt) protects secrets that people choose; this one
is 190 random bits, which no one can search through however fast the hash, and every request would pay for slowness.
The key id is not secret: it finds the record, and may be listed and logged. The secret is shown once and kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field
from typing import Final, Protocol, Unpack

from cluster.errors import InvalidRequestError
from services.tenants.share import DEFAULT, Share, ShareChange
from services.tenants.tenant import check_tenant_id

ID_CHARS: Final = 12
SECRET_CHARS: Final = 32  # of 62: 190 bits
_ALPHABET: Final = string.ascii_letters + string.digits
_SHAPE: Final = re.compile(rf"sk-([A-Za-z0-9]{{{ID_CHARS}}})([A-Za-z0-9]{{{SECRET_CHARS}}})")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f]{0,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key as it may be shown. Times are unix seconds; ``revoked_at`` is None while the key works."""

    id: str
    tenant: str
    name: str
    created_at: int
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A key as it is stored, and what its tenant gets: whoever finds a key needs both."""

    info: KeyInfo
    digest: bytes = field(repr=False)  # SHA-256 of the secret
    share: Share = DEFAULT  # of the tenant, as of this reading

    def admits(self, secret: str) -> bool:
        """Whether the key works and this is its secret. Compares in constant time, for a revoked key too."""
        matches = hmac.compare_digest(self.digest, digest_of(secret))
        return matches and self.info.revoked_at is None


class KeyStore(Protocol):
    """Where keys live, and the shares of their tenants.

    Every method raises StoreUnavailableError within two seconds when the store does not answer.
    """

    async def create(self, tenant: str, name: str) -> tuple[KeyInfo, str]:
        """Make a key; its text is shown once. Raises InvalidRequestError."""
        ...

    async def list(self) -> list[KeyInfo]:
        """All keys, revoked ones too, oldest first."""
        ...

    async def revoke(self, key_id: str) -> None:
        """Make a key useless; revoking it again changes nothing. Raises NotFoundError."""
        ...

    async def rotate(self, key_id: str) -> tuple[KeyInfo, str]:
        """Replace a key by a new one of the same tenant and name; the old one is revoked in the same step.

        Raises:
            NotFoundError: there is no such key.
            InvalidRequestError: it is revoked already.
        """
        ...

    async def find(self, key_id: str) -> KeyRecord | None:
        """The record of one key. Raises ConfigurationError where its tenant's share was spoilt by hand."""
        ...

    async def set_share(self, tenant: str, **change: Unpack[ShareChange]) -> Share:
        """Change parts of a tenant's share in one step; the rest stays. Returns all of it.

        The tenant needs no key yet.

        Raises:
            InvalidRequestError: the id or a value is wrong, or nothing is given. Nothing was changed.
            ConfigurationError: a part that was not changed was spoilt by hand.
        """
        ...

    async def shares(self) -> dict[str, Share]:
        """What tenants were given, by their ids; every other tenant has the default share."""
        ...

    async def version(self) -> int:
        """A number that differs after each change."""
        ...


def make_key(tenant: str, name: str, *, created_at: int) -> tuple[KeyRecord, str]:
    """A new record and the key's text. Raises InvalidRequestError for a bad tenant id or name."""
    check_tenant_id(tenant)
    if _NAME.fullmatch(name) is None:
        raise InvalidRequestError(
            "A key's name is at most 64 characters, none of them a control character.", param="name"
        )
    key_id, secret = _draw(ID_CHARS), _draw(SECRET_CHARS)
    info = KeyInfo(id=key_id, tenant=tenant, name=name, created_at=created_at)
    return KeyRecord(info=info, digest=digest_of(secret)), f"sk-{key_id}{secret}"


def split_key(text: str) -> tuple[str, str] | None:
    """Key id and secret of a key's text; None when it has not the shape of one."""
    match = _SHAPE.fullmatch(text)
    return (match[1], match[2]) if match else None


def digest_of(secret: str) -> bytes:
    """SHA-256 of a secret, or of whatever a stranger sent in place of one."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _draw(chars: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))
