from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import TurnLostError
from services.conversations import codec
from services.conversations.records import Item

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


@given(new=IDS)
def test_ids_are_four_bytes_little_endian(new):
    """The scripts cut segments at multiples of four."""
    packed = codec.pack_ids(new)
    assert packed == b"".join(i.to_bytes(4, "little") for i in new)
    assert codec.unpack_ids(packed) == new


@pytest.mark.parametrize("wrong", [-1, 2**32])
def test_what_is_no_token_id_is_refused(wrong):
    """It is not wrapped around in silence."""
    with pytest.raises(struct.error):
        codec.pack_ids([wrong])


@given(segments=st.lists(IDS.filter(bool), max_size=6))
def test_a_journal_is_its_segments_joined(segments):
    """Each entry is named after the number of ids so far; the end entry carries none."""
    entries, total = [], 0
    for segment in segments:
        total += len(segment)
        entries.append((f"{total}-0".encode(), {b"ids": codec.pack_ids(segment)}))
    entries.append((f"{total}-1".encode(), {b"end": b"completed"}))
    assert codec.decode_journal("resp_x", entries) == [i for segment in segments for i in segment]


def test_a_missing_segment_is_noticed():
    """Names and lengths must agree."""
    with pytest.raises(TurnLostError, match="resp_x"):
        codec.decode_journal("resp_x", [(b"4-0", {b"ids": codec.pack_ids([1, 2])})])


@given(text=st.text(), new=st.none() | IDS)
def test_items_survive_their_encoding(text, new):
    """Any text that is Unicode, with ids or without."""
    item = Item(id="msg_x", role="assistant", text=text, ids=new, turn="resp_x", status="incomplete", created_at=3)
    assert codec.decode_item(codec.encode(item)) == item
