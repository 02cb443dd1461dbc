"""Which turns want the same replica."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.turns.events import Message, Role
from services.turns.pin import conversation_key, stateless_key
from tests.support.turn_kit import user

SYSTEM = Message(Role.SYSTEM, "Be kind.")


def test_all_turns_of_one_chat_share_a_key():
    """What follows the first user message does not count."""
    longer = [SYSTEM, user("Hi"), Message(Role.ASSISTANT, "Hello"), user("more")]
    assert stateless_key("acme", [SYSTEM, user("Hi")], None) == stateless_key("acme", longer, None)


def test_chats_with_equal_instructions_differ_by_their_first_question():
    """A company's one system message does not send everybody to one replica."""
    assert stateless_key("acme", [SYSTEM, user("a")], None) != stateless_key("acme", [SYSTEM, user("b")], None)


def test_a_cache_key_takes_the_place_of_the_messages():
    """Whoever gives one decides alone; an empty one is one too."""
    assert stateless_key("acme", [user("a")], "k") == stateless_key("acme", [user("b")], "k")
    assert stateless_key("acme", [user("a")], "") == stateless_key("acme", [user("b")], "")


@given(st.text(), st.text())
def test_a_key_is_opaque_and_the_tenants_own(text, cache_key):
    """Nothing a client wrote can be read from it, and no tenant can make another's."""
    keys = [
        key
        for tenant in ("acme", "umbrella")
        for key in (
            conversation_key(tenant, cache_key),
            stateless_key(tenant, [user(text)], None),
            stateless_key(tenant, [user(text)], cache_key),
        )
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(bytes.fromhex(key)) == 16 for key in keys)


def test_text_that_is_no_unicode_has_a_key_too():
    """It is refused where it is encoded, not here."""
    assert stateless_key("acme", [user("\ud800")], None)
