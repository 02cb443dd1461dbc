"""What an operator may give a tenant, and how it is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigurationError, InvalidRequestError
from services.tenants.share import BOUNDS, LAST_CLASS, PARTS, Share, decode_share, parse_part, share_of

VALUES = {
    "weight": st.floats(*BOUNDS["weight"]),
    "priority": st.integers(0, LAST_CLASS),
    "history_ttl_days": st.floats(*BOUNDS["history_ttl_days"]),
    "resume_s": st.floats(*BOUNDS["resume_s"]),
    "max_queued": st.integers(1, 1_000_000),
}
some_parts = st.fixed_dictionaries({}, optional=VALUES)
spoilt = st.none() | st.binary(max_size=8) | (st.floats() | st.integers()).map(lambda number: str(number).encode())


@given(some_parts)
def test_what_is_written_is_read_and_the_rest_is_the_clusters(parts):
    """To the last bit."""
    stored = {part: str(value).encode() for part, value in parts.items()}
    assert decode_share("acme", stored) == Share(**parts) == share_of(dict.fromkeys(PARTS) | parts)


@given(st.dictionaries(st.sampled_from(PARTS), spoilt))
def test_whatever_is_stored_gives_a_valid_share_or_a_clear_error(stored):
    """Numbers that somebody wrote by hand reach no scheduler unchecked."""
    try:
        share = decode_share("acme", stored)
    except ConfigurationError as error:
        assert "tenant acme" in str(error)  # noqa: PT017 - half of the inputs are good
    else:
        for part, (least, most) in BOUNDS.items():
            value = getattr(share, part)
            assert value is None or least <= value <= most


@pytest.mark.parametrize("stored", [b"nan", b"inf", b"-1", b"1e9", b"heavy", b"", b"\xff"])
@pytest.mark.parametrize("part", PARTS)
def test_a_spoilt_part_says_how_to_repair_it(part, stored):
    """The command to give is in the error."""
    option = part.replace("_", "-")
    with pytest.raises(ConfigurationError, match=f"chatglm-cluster tenant set acme --{option} default"):
        decode_share("acme", {part: stored})


def test_a_share_of_an_older_release_has_the_new_parts_of_the_cluster():
    """And one of a newer release loses what nobody knows here."""
    assert decode_share("acme", {"weight": b"2.0", "priority": b"1"}) == Share(weight=2.0, priority=1)
    assert decode_share("acme", {"weight": b"2.0", "speed": b"fast"}) == Share(weight=2.0)


@pytest.mark.parametrize(
    ("part", "wrong", "said"),
    [
        ("weight", [0.0, -1.0, 0.0099, 1000.1, float("nan"), float("inf")], r"weight is 0\.01 to 1000, not "),
        ("priority", [-1, 10], "priority is a whole number from 0 to 9, not "),
        ("history_ttl_days", [0.9, 3651.0, float("nan")], "history_ttl_days is 1 to 3650, not "),
        ("resume_s", [-0.1, 1800.5, float("nan")], "resume_s is 0 to 1800, not "),
        ("max_queued", [0, 1_000_001], "max_queued is a whole number from 1 to 1000000, not "),
    ],
)
def test_a_value_out_of_bounds_is_no_share(part, wrong, said):
    """The error names the part and its bounds, of a number and of what a person wrote."""
    for value in wrong:
        for make in (lambda value: Share(**{part: value}), lambda value: parse_part(part, str(value))):
            with pytest.raises(InvalidRequestError, match=said) as caught:
                make(value)
            assert caught.value.param == part


@pytest.mark.parametrize(("part", "text"), [("priority", "1.5"), ("max_queued", "1e3"), ("resume_s", "soon")])
def test_a_text_of_another_kind_is_no_part(part, text):
    """Turns and classes are counted."""
    with pytest.raises(InvalidRequestError, match=f"not {text}"):
        parse_part(part, text)


def test_days_are_kept_in_seconds():
    """As a store takes them; nothing stays nothing."""
    assert (Share(history_ttl_days=1.5).history_ttl_s, Share().history_ttl_s) == (129_600, None)


@given(some_parts)
def test_a_lowered_share_is_one_class_later_and_otherwise_the_same(parts):
    """The last class is the last."""
    later = min(parts.get("priority", 0) + 1, LAST_CLASS)
    assert Share(**parts).lowered() == Share(**(parts | {"priority": later}))
