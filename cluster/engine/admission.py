"""Whether a request may join the queue: by the number that wait, and by how long it would wait for the batch.

The wait is predicted from two queues, and the longer one counts. A sequence that finds no place waits for others to
leave: those before it that find none either, over the rate of leaving (Little's law over the measured time in the
batch). A sequence that finds a place waits for a step with room: the tokens before it, less what the cache is likely to
hold, over the rate of computing prompts.

Who is before it follows from the queue's order: nobody of a lower class, and of the others no more than its tenant's
share lets pass. So a tenant that floods the queue makes itself wait, and is refused, and others are not.

What was never measured counts as no wait, and an empty engine refuses nobody: an overload ends by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.engine.block_manager import BlockManager
from cluster.engine.config import EngineConfig
from cluster.engine.fairness import Accounts
from cluster.engine.pace import QueuePace
from cluster.engine.queue import Queue
from cluster.engine.sequence import Sequence
from cluster.errors import OverloadedError
from cluster.protocol import GenerateRequest

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Those in the queue who will be taken before a request, as far as that can be known."""

    sequences: float = 0.0
    tokens: float = 0.0


class Admission:
    """The bounds of one engine's queue.

    Attributes:
        pace: what the scheduler measures for it.
    """

    def __init__(self, config: EngineConfig, blocks: BlockManager) -> None:
        self.pace = QueuePace()
        self._config = config
        self._blocks = blocks

    def check(self, request: GenerateRequest, running: list[Sequence], waiting: Queue, accounts: Accounts) -> None:
        """Refuse a request that would wait too long behind ``running`` and ``waiting``.

        A turn that goes on from elsewhere is never refused for its wait: its client is reading already.

        Raises:
            OverloadedError: ``max_waiting`` sequences wait already, and its tenant has its share of them; or the wait
                would exceed ``max_wait_s``. Tells when a retry would probably be accepted.
        """
        is_full = self._is_full(request, waiting, accounts)
        if request.output_ids and not is_full:
            return
        wait_s = self.wait_s(request, running, waiting, accounts)
        if is_full:
            raise OverloadedError("The engine's queue is full.", retry_after_s=_retry_after_s(wait_s))
        if wait_s > self._config.max_wait_s:
            raise OverloadedError(
                f"The turn would wait about {wait_s:.0f} s for its place in the batch.",
                retry_after_s=_retry_after_s(wait_s - self._config.max_wait_s),
            )

    def wait_s(self, request: GenerateRequest, running: list[Sequence], waiting: Queue, accounts: Accounts) -> float:
        """Predicted seconds until ``request``, fresh, would be in the batch. O(running)."""
        num_tokens = len(request.prompt_ids) + len(request.output_ids)
        ahead = _ahead(request, waiting, accounts)
        return max(self._place_s(num_tokens, running, ahead), self._prefill_s(running, ahead))

    def _is_full(self, request: GenerateRequest, waiting: Queue, accounts: Accounts) -> bool:
        bound = self._config.max_waiting
        if len(waiting) < bound:
            return False
        account = accounts.get(request.tenant)
        own = account.num_waiting if account is not None else 0
        return own + 1 > bound * accounts.share_of(request.tenant, request.weight) or len(waiting) >= 2 * bound

    def _place_s(self, num_tokens: int, running: list[Sequence], ahead: _Ahead) -> float:
        rate = self.pace.leave_rate(max_seqs=self._config.max_num_seqs, max_pages=self._blocks.num_pages - 1)
        if rate is None:
            return 0.0
        return self._num_without_place(num_tokens, running, ahead) / rate

    def _num_without_place(self, num_tokens: int, running: list[Sequence], ahead: _Ahead) -> float:
        """How many of those ahead, and the new one, do not fit beside those before them."""
        promised = sum([self._missing(seq) for seq in running])
        pages = self._blocks.num_available - promised - len(running)
        places = self._config.max_num_seqs - len(running)
        size = self._pages_of(ahead.tokens / ahead.sequences) if ahead.sequences else 0
        # No request is accepted that the pool could not hold alone.
        alone = 0 if running else 1
        fitting = min(ahead.sequences, places, max(pages // size, alone)) if size else 0
        if fitting < ahead.sequences:
            return ahead.sequences + 1 - fitting
        is_alone = not running and not ahead.sequences
        left = pages - ahead.sequences * size - self._pages_of(num_tokens)
        return 0.0 if ahead.sequences < places and (left >= 0 or is_alone) else 1.0

    def _pages_of(self, num_tokens: float) -> float:
        """Pages that a sequence takes, and the one that is kept free for it."""
        return -(-num_tokens // self._config.page_size) + 1

    def _missing(self, seq: Sequence) -> int:
        return self._blocks.pages_for(len(seq.token_ids)) - len(seq.table.pages)

    def _prefill_s(self, running: list[Sequence], ahead: _Ahead) -> float:
        rate = self.pace.prefill_rate
        if not rate:
            return 0.0
        queued = ahead.tokens * self.pace.computed_share
        return (queued + sum([seq.num_remaining for seq in running if seq.num_remaining > 1])) / rate


def _ahead(request: GenerateRequest, waiting: Queue, accounts: Accounts) -> _Ahead:
    """Of its class and those before it all, but no more than are served while its tenant's turn comes round."""
    sequences, tokens = waiting.ahead_of(request.priority)
    if not sequences:
        return _Ahead()
    account = accounts.get(request.tenant)
    own = account.num_waiting if account is not None else 0
    rounds = (own + 1) / accounts.share_of(request.tenant, request.weight)
    before = min(float(sequences), rounds - 1)
    return _Ahead(before, tokens * before / sequences)


def _retry_after_s(seconds: float) -> float:
    return min(max(seconds, MIN_RETRY_S), MAX_RETRY_S)
