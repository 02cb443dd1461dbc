from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import NotFoundError
from services.conversations import ids


def test_ids_have_one_constant_shape():
    """Lengths and alphabets never vary."""
    conversation = ids.new_conversation()
    assert [len(conversation), len(ids.new_response(conversation)), len(ids.new_item(conversation))] == [21, 37, 36]
    assert set(conversation.removeprefix("conv_")) <= set("abcdefghijklmnopqrstuvwxyz234567")


def test_every_id_leads_to_its_root():
    """An id is enough to find its keys."""
    conversation = ids.new_conversation()
    root = conversation.removeprefix("conv_")
    response, item = ids.new_response(conversation), ids.new_item(conversation)
    assert [ids.conversation_root(conversation), ids.response_parts(response)[0], ids.item_root(item)] == [root] * 3
    assert ids.conversation_of(response) == conversation


def test_ids_do_not_repeat():
    """Neither roots nor the parts drawn on one root."""
    conversation = ids.new_conversation()
    assert len({ids.new_conversation() for _ in range(1000)}) == 1000
    assert len({ids.new_response(conversation) for _ in range(1000)}) == 1000


@given(text=st.one_of(st.text(), st.from_regex(r"\A(conv|resp|msg)_[a-z2-7{}.:*\n]*\Z")))
def test_anything_malformed_is_an_id_of_nothing(text):
    """Parsers answer with a root of 16 letters or digits, or with NotFoundError; nothing else comes out."""
    for parse in (ids.conversation_root, lambda name: ids.response_parts(name)[0], ids.item_root):
        try:
            root = parse(text)
        except NotFoundError:
            continue
        assert len(root) == 16
        assert root.isalnum()
        assert root.isascii()


def test_an_id_of_another_kind_is_not_found():
    """A response's id is not a conversation's."""
    with pytest.raises(NotFoundError):
        ids.conversation_root(ids.new_response(ids.new_conversation()))


def test_an_error_repeats_only_the_start_of_what_was_sent():
    """A megabyte in the path does not come back in the answer."""
    with pytest.raises(NotFoundError) as caught:
        ids.conversation_root("x" * 1_000_000)
    assert len(str(caught.value)) < 200
