from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol import Logprobs
from services.conversations import codec
from services.conversations.records import Item, TurnState
from services.conversations.store import Tailed

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


BEST = st.integers(0, 5).flatmap(
    lambda num: st.lists(
        st.builds(
            Logprobs,
            drawn=st.floats(allow_nan=False),
            top_ids=st.lists(st.integers(0, 2**32 - 1), min_size=num, max_size=num),
            top=st.lists(st.floats(allow_nan=False), min_size=num, max_size=num),
        ),
        max_size=6,
    )
)


@given(segments=st.lists(IDS.filter(bool), max_size=6), after=st.integers(0, 9))
def test_a_journal_is_its_segments_joined(segments, after):
    """Each entry is named after the number of ids so far, those that the reader has included."""
    entries, total = [], after
    for segment in segments:
        total += len(segment)
        entries.append((f"{total}-0".encode(), [b"ids", codec.pack_ids(segment)]))
    found = codec.decode_tailed([b"running", entries], after)
    assert found == Tailed(TurnState.RUNNING, [i for segment in segments for i in segment], [])


def test_a_missing_segment_is_noticed():
    """Names and lengths must agree."""
    found = codec.decode_tailed([b"running", [(b"4-0", [b"ids", codec.pack_ids([1, 2])])]], 0)
    assert found == Tailed(TurnState.RUNNING, is_broken=True)


@given(logprobs=BEST)
def test_log_probabilities_survive_their_packing(logprobs):
    """Every float to its last bit, however many best ones there are."""
    assert codec.unpack_logprobs(codec.pack_logprobs(logprobs), len(logprobs)) == logprobs


@given(text=st.text(), new=st.none() | IDS)
def test_items_survive_their_encoding(text, new):
    """Any text that is Unicode, with ids or without."""
    item = Item(id="msg_x", role="assistant", text=text, ids=new, turn="resp_x", status="incomplete", created_at=3)
    assert codec.decode_item(codec.encode(item)) == item
