"""Whether a request may join the queue: by the number that wait, and by how long it would wait for the batch.

The wait is predicted from two queues, and the longer one counts. A sequence that finds no place waits for others to
leave: those before it that find none either, over the rate of leaving (Little's law over the measured time in the
batch). A sequence that finds a place waits for a step with room: the tokens before it, less what the cache is likely to
hold, over the rate of computing prompts.

What was never measured counts as no wait, and an empty engine refuses nobody: an overload ends by itself.
"""

from __future__ import annotations

from collections.abc import Collection

from cluster.engine.block_manager import BlockManager
from cluster.engine.config import EngineConfig
from cluster.engine.pace import QueuePace
from cluster.engine.sequence import Sequence
from cluster.errors import OverloadedError
from cluster.protocol import GenerateRequest

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0


class Admission:
    """The bounds of one engine's queue.

    Attributes:
        pace: what the scheduler measures for it.
    """

    def __init__(self, config: EngineConfig, blocks: BlockManager) -> None:
        self.pace = QueuePace()
        self._config = config
        self._blocks = blocks

    def check(self, request: GenerateRequest, running: list[Sequence], waiting: Collection[Sequence]) -> None:
        """Refuse a request that would wait too long behind ``running`` and ``waiting``.

        A turn that goes on from elsewhere is never refused for its wait: its client is reading already.

        Raises:
            OverloadedError: ``max_waiting`` sequences wait already, or the wait would exceed ``max_wait_s``; tells
                when a retry would probably be accepted.
        """
        is_full = len(waiting) >= self._config.max_waiting
        if request.output_ids and not is_full:
            return
        wait_s = self.wait_s(len(request.prompt_ids) + len(request.output_ids), running, waiting)
        if is_full:
            raise OverloadedError("The engine's queue is full.", retry_after_s=_retry_after_s(wait_s))
        if wait_s > self._config.max_wait_s:
            raise OverloadedError(
                f"The turn would wait about {wait_s:.0f} s for its place in the batch.",
                retry_after_s=_retry_after_s(wait_s - self._config.max_wait_s),
            )

    def wait_s(self, num_tokens: int, running: list[Sequence], waiting: Collection[Sequence]) -> float:
        """Predicted seconds until a sequence of ``num_tokens`` behind all others is in the batch. O(sequences)."""
        return max(self._place_s(num_tokens, running, waiting), self._prefill_s(running, waiting))

    def _place_s(self, num_tokens: int, running: list[Sequence], waiting: Collection[Sequence]) -> float:
        rate = self.pace.leave_rate(max_seqs=self._config.max_num_seqs, max_pages=self._blocks.num_pages - 1)
        if rate is None:
            return 0.0
        return self._num_without_place(num_tokens, running, waiting) / rate

    def _num_without_place(self, num_tokens: int, running: list[Sequence], waiting: Collection[Sequence]) -> int:
        """How many of the queue, the new one included, do not fit beside those before them."""
        promised = sum([self._missing(seq) for seq in running])
        pages = self._blocks.num_available - promised - len(running)
        places = self._config.max_num_seqs - len(running)
        sizes = [len(seq.token_ids) for seq in waiting] + [num_tokens]
        for i, size in enumerate(sizes):
            pages -= self._blocks.pages_for(size) + 1
            is_alone = not running and not i  # and no request is accepted that the pool could not hold alone
            if i >= places or (pages < 0 and not is_alone):
                return len(sizes) - i
        return 0

    def _missing(self, seq: Sequence) -> int:
        return self._blocks.pages_for(len(seq.token_ids)) - len(seq.table.pages)

    def _prefill_s(self, running: list[Sequence], waiting: Collection[Sequence]) -> float:
        rate = self.pace.prefill_rate
        if not rate:
            return 0.0
        queued = sum([len(seq.token_ids) for seq in waiting]) * self.pace.computed_share
        return (queued + sum([seq.num_remaining for seq in running if seq.num_remaining > 1])) / rate


def _retry_after_s(seconds: float) -> float:
    return min(max(seconds, MIN_RETRY_S), MAX_RETRY_S)
