"""What a replica answers when it is told to forget, and how both travel: MessagePack, as everything on this border."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from cluster.protocol import Forgotten, Label

FORGET_S = 2.0  # nobody waits longer for the answer


class Emptied(msgspec.Struct, frozen=True, kw_only=True):
    """One replica has forgotten all labels that it was told."""

    incarnation: str
    forgotten: Forgotten


_encoder = msgspec.msgpack.Encoder()
_labels = msgspec.msgpack.Decoder(list[Label])
_emptied = msgspec.msgpack.Decoder(Emptied)


def encode_labels(labels: Sequence[Label]) -> bytes:
    """The call's payload."""
    return _encoder.encode(labels)


def decode_labels(payload: bytes) -> list[Label]:
    """The labels in a call's payload."""
    return _labels.decode(payload)


def encode_emptied(incarnation: str, forgotten: Forgotten) -> bytes:
    """The call's answer."""
    return _encoder.encode(Emptied(incarnation=incarnation, forgotten=forgotten))


def decode_emptied(data: bytes) -> Emptied:
    """What a replica has answered."""
    return _emptied.decode(data)


def total(parts: Iterable[Forgotten]) -> Forgotten:
    """All of them together."""
    counts = [(part.dropped, part.held) for part in parts]
    return Forgotten(dropped=sum(dropped for dropped, _ in counts), held=sum(held for _, held in counts))
