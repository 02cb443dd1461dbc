"""The one method through which a turn gets its tokens, whoever computes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from cluster.protocol import Event, GenerateRequest


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
