"""What the unary call of a turn answers: how the attempt ended, or why it was refused before anything was computed."""

from __future__ import annotations

import msgspec

from cluster.errors import (
    ChannelError,
    ClusterError,
    ConfigurationError,
    ContextLengthExceededError,
    InvalidRequestError,
    OverloadedError,
    RetryLaterError,
)
from cluster.protocol import Finish


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The attempt was accepted and has ended; its ids travelled on the channel."""

    finish: Finish


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing was computed by ``incarnation``. ``values`` are the numbers the error speaks of."""

    code: str
    message: str
    incarnation: str
    values: dict[str, float] = {}


Outcome = Done | Refused

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)


def encode_outcome(outcome: Outcome) -> bytes:
    """MessagePack of an outcome."""
    return _encoder.encode(outcome)


def decode_outcome(data: bytes) -> Outcome:
    """The outcome in ``data``."""
    return _decoder.decode(data)


def refusal(error: ClusterError, incarnation: str) -> Refused:
    """An error of a replica as it crosses the process border."""
    values: dict[str, float] = {}
    if isinstance(error, ContextLengthExceededError):
        values = {
            "prompt_tokens": error.prompt_tokens,
            "max_tokens": error.max_tokens,
            "context_length": error.context_length,
        }
    elif isinstance(error, RetryLaterError):
        values = {"retry_after_s": error.retry_after_s}
    return Refused(error.code, str(error), incarnation, values)


def to_error(refused: Refused) -> ClusterError:
    """The typed error again, on the owner's side."""
    if refused.code == ContextLengthExceededError.code:
        return ContextLengthExceededError(**{name: int(value) for name, value in refused.values.items()})
    if refused.code == OverloadedError.code:
        retry_after_s = refused.values["retry_after_s"]
        return OverloadedError(refused.message, retry_after_s=retry_after_s, refused_by=refused.incarnation)
    for kind in (InvalidRequestError, ChannelError, ConfigurationError):
        if refused.code == kind.code:
            return kind(refused.message)
    return ClusterError(refused.message)
