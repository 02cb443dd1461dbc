"""Texts into a hash so that no two lists of texts give the same bytes."""

from __future__ import annotations

import hashlib


def add_text(digest: hashlib.blake2b, text: str) -> None:
    """Feed one text, its length first: that keeps ("ab", "c") apart from ("a", "bc").

    Lone surrogates are refused with a clear message where the prompt is encoded; here they must only not raise.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    digest.update(len(encoded).to_bytes(8, "little"))
    digest.update(encoded)
