"""Errors keep their type and their numbers when they cross from a replica to the owner of a turn."""

from __future__ import annotations

import pytest

from cluster.errors import ChannelError, ClusterError, ContextLengthExceededError, InvalidRequestError, OverloadedError
from cluster.protocol import Finish, FinishReason, Usage
from cluster.replica.outcome import Done, Refused, decode_outcome, encode_outcome, refusal, to_error


@pytest.mark.parametrize(
    "error",
    [
        ContextLengthExceededError(prompt_tokens=9, max_tokens=4, context_length=12),
        OverloadedError("full", retry_after_s=1.5, refused_by="r1"),
        InvalidRequestError("no such id", param="prompt_ids"),
        ChannelError("channel_unreachable h:1"),
    ],
)
def test_a_refusal_is_the_same_error_on_the_other_side(error: ClusterError) -> None:
    """Type, message and values survive."""
    refused = decode_outcome(encode_outcome(refusal(error, "r1")))
    assert isinstance(refused, Refused)
    again = to_error(refused)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert {k: v for k, v in vars(again).items() if v is not None} == {
        k: v for k, v in vars(error).items() if v is not None
    }


def test_an_end_is_carried_whole() -> None:
    """Reason, count and usage."""
    usage = Usage(prompt_tokens=5, cached_tokens=3, output_tokens=2)
    done = Done(Finish(reason=FinishReason.LENGTH, total=2, usage=usage))
    assert decode_outcome(encode_outcome(done)) == done
