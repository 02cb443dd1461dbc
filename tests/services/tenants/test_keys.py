from __future__ import annotations

import math

import pytest

from services.tenants.keys import SECRET_CHARS, digest_of, make_key, split_key
from services.tenants.tenant import Tenant


def test_a_keys_text_has_a_fixed_url_safe_shape():
    """``sk-``, twelve characters of id, thirty-two of secret."""
    record, text = make_key("acme", "k", created_at=1)
    assert len(text) == 47
    assert text.startswith(f"sk-{record.info.id}")
    assert text.removeprefix("sk-").isalnum()
    assert text.isascii()


def test_a_secret_has_at_least_160_bits():
    """The reason why one fast hash is enough at rest."""
    assert math.log2(62) * SECRET_CHARS >= 160


def test_keys_do_not_repeat():
    """Neither ids nor secrets."""
    texts = [make_key("acme", "k", created_at=1)[1] for _ in range(500)]
    assert len({split_key(text)[0] for text in texts}) == len({split_key(text)[1] for text in texts}) == 500


@pytest.mark.parametrize(
    "text", ["", "sk-", "sk-short", "SK-" + "a" * 44, "sk-" + "a" * 45, "sk-" + "a" * 43 + "\n", "sk-" + "é" * 44]
)
def test_what_has_not_the_shape_of_a_key_is_not_split(text):
    """Nothing of it reaches a store."""
    assert split_key(text) is None


def test_a_record_does_not_show_its_digest():
    """Not even the hash ends in a log."""
    record, text = make_key("acme", "k", created_at=1)
    assert split_key(text)[1] not in repr(record)
    assert repr(record.digest) not in repr(record)


def test_whatever_a_stranger_sends_can_be_hashed():
    """Lone surrogates too."""
    assert len(digest_of("\udc80")) == 32


def test_tenants_compare_by_value():
    """A tenant from the cache is the tenant from the store."""
    assert Tenant(id="a", name="a") == Tenant(id="a", name="a")
