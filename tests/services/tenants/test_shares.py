from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigurationError, InvalidRequestError
from services.tenants.share import LAST_CLASS, MAX_WEIGHT, MIN_WEIGHT, Share, decode_share, encode_share

weights = st.floats(MIN_WEIGHT, MAX_WEIGHT)
priorities = st.integers(0, LAST_CLASS)
spoilt = st.none() | st.binary(max_size=8) | (st.floats() | st.integers()).map(lambda number: str(number).encode())


def read_back(fields: dict[str, str]) -> Share:
    weight, priority = (fields[name].encode() if name in fields else None for name in ("weight", "priority"))
    return decode_share("acme", weight=weight, priority=priority)


@given(weights, priorities)
def test_a_share_is_read_as_it_was_written(weight, priority):
    """To the last bit of the weight."""
    assert read_back(encode_share(weight=weight, priority=priority)) == Share(weight=weight, priority=priority)


@given(st.none() | weights, st.none() | priorities)
def test_only_what_is_given_is_written(weight, priority):
    """So that a part that is not given stays as it is."""
    written = encode_share(weight=weight, priority=priority)
    assert set(written) == {name for name, part in [("weight", weight), ("priority", priority)] if part is not None}


@given(spoilt, spoilt)
def test_whatever_is_stored_gives_a_valid_share_or_a_clear_error(weight, priority):
    """Numbers that somebody wrote by hand reach no scheduler unchecked."""
    try:
        share = decode_share("acme", weight=weight, priority=priority)
    except ConfigurationError as error:
        assert "tenant acme" in str(error)  # noqa: PT017 - half of the inputs are good
    else:
        assert MIN_WEIGHT <= share.weight <= MAX_WEIGHT
        assert share.priority in range(LAST_CLASS + 1)


@pytest.mark.parametrize("stored", [b"nan", b"inf", b"0", b"-1", b"1e9", b"heavy", b"", b"\xff"])
def test_a_spoilt_weight_says_how_to_repair_it(stored):
    """The command to give is in the error."""
    with pytest.raises(ConfigurationError, match="chatglm-cluster tenant set acme"):
        decode_share("acme", weight=stored, priority=None)


@pytest.mark.parametrize("weight", [0.0, -1.0, 0.0099, 1000.1, float("nan"), float("inf")])
def test_a_weight_out_of_bounds_is_no_share(weight):
    """A scheduler divides by it."""
    with pytest.raises(InvalidRequestError, match=r"0\.01 to 1000") as caught:
        Share(weight=weight)
    assert caught.value.param == "weight"


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_class_out_of_bounds_is_no_share(priority):
    """Nobody goes before the first class."""
    with pytest.raises(InvalidRequestError) as caught:
        Share(priority=priority)
    assert caught.value.param == "priority"


@given(weights, priorities)
def test_a_lowered_share_is_never_earlier_nor_heavier(weight, priority):
    """One class later, and the last class is the last."""
    share = Share(weight=weight, priority=priority)
    assert share.lowered() == Share(weight=weight, priority=min(priority + 1, LAST_CLASS))
    assert share.lowered().priority >= share.priority
