"""The method through which a turn gets its tokens, whoever computes them, and the one that has their KV forgotten."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.protocol import Event, GenerateRequest, Label

SOMEBODY = frozenset({"?"})  # missed, while it is not even known who runs


@dataclass(frozen=True, slots=True)
class Erased:
    """What became of the KV of labels, on all replicas together.

    Attributes:
        dropped: full pages that are gone.
        held: pages that running turns held; they go when these end.
        reached: incarnations that have answered.
        missed: those that have not: they may hold pages still, and may yet drop them.
    """

    dropped: int = 0
    held: int = 0
    reached: frozenset[str] = frozenset()
    missed: frozenset[str] = frozenset()


class Backend(Protocol):
    """Generates. One call is one attempt; failover (a new attempt with ``output_ids``) is the turn's business."""

    def stream(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Yield one ``Served``, then ``Tokens`` in order without gaps, then one ``Finish``.

        Closing the generator aborts the attempt.

        Raises:
            OverloadedError: the replica's queue is full.
            NoReplicaError: none is alive, or none accepted in time.
            ContextLengthExceededError: the request does not fit the model.
            ChannelError: the replica was lost in mid-answer; ids already yielded stay valid.
        """
        ...

    async def forget(self, labels: Sequence[Label]) -> Erased:
        """Drop the KV of all requests with these labels on every replica that runs. Takes about two seconds at most.

        Never fails: a replica that does not answer is ``missed``.
        """
        ...
