"""What the unary call of a turn answers: how the attempt ended, or why it was refused before anything was computed."""

from __future__ import annotations

import msgspec

from cluster import faults
from cluster.errors import ClusterError, OverloadedError
from cluster.faults import Fault, to_fault
from cluster.protocol import Finish


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The attempt was accepted and has ended; its ids travelled on the channel."""

    finish: Finish


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing was computed by ``incarnation``, for this error."""

    fault: Fault
    incarnation: str


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
    return Refused(to_fault(error), incarnation)


def to_error(refused: Refused) -> ClusterError:
    """The typed error again, on the owner's side."""
    error = faults.to_error(refused.fault)
    if isinstance(error, OverloadedError):
        error.refused_by = refused.incarnation
    return error if isinstance(error, ClusterError) else ClusterError(str(error))
