from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversations import ids
from services.conversations.keys import Keys, ids_key


def all_names(keys):
    return [
        keys.line(),
        keys.items(),
        keys.line("b"),
        keys.items("b"),
        keys.item,
        keys.index,
        keys.gone,
        keys.turn("a" * 16),
        keys.journal("a" * 16),
    ]


def test_all_keys_of_a_root_share_one_hash_tag():
    """Redis Cluster hashes what stands between the first braces."""
    conversation = ids.new_conversation()
    names = all_names(Keys.of_conversation("acme", conversation))
    assert {name[name.index("{") : name.index("}") + 1] for name in names} == {
        f"{{acme.{ids.conversation_root(conversation)}}}"
    }
    assert len(set(names)) == len(names)
    assert all(name.startswith("c1:{") for name in names)


def test_the_same_root_of_two_tenants_shares_no_key():
    """The tenant is part of every name."""
    conversation = ids.new_conversation()
    ours, theirs = (all_names(Keys.of_conversation(tenant, conversation)) for tenant in ("acme", "acme-2"))
    assert not set(ours) & set(theirs)


def test_the_keys_of_a_response_are_those_of_its_conversation():
    """A turn's record lies in its conversation's slot."""
    conversation = ids.new_conversation()
    response = ids.new_response(conversation)
    keys, part = Keys.of_turn("acme", response)
    assert keys == Keys.of_conversation("acme", conversation)
    assert response.endswith(part)


@given(tenant=st.text(max_size=40))
def test_only_plain_tenant_ids_make_keys(tenant):
    """What is let in cannot end the hash tag or reach another tenant's."""
    try:
        keys = Keys(tenant, "a" * 16)
    except ValueError:
        return
    assert keys.line() == f"c1:{{{tenant}.{'a' * 16}}}:line:main"
    assert set(tenant) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 1 <= len(tenant) <= 32


@pytest.mark.parametrize("key", [b"", b"}{", b"\xff\x00"])
def test_index_keys_are_spelled_in_hex(key):
    """No byte of a hash can break a name."""
    assert ids_key(key) == f"c1:sampled:{{{key.hex()}}}"
