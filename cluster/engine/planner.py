"""Which sequences are in the batch, and how many tokens of each the next step computes.

Running sequences that need one token come first, so that no prompt ever makes a stream wait for its turn. What is left
of the budget, bounded while streams run, goes to prompts: those in the batch and the queue's next stand in one order,
class, then the tenant with the least virtual token count, and take chunks until it is used up. Counts are charged as
work is decided, so the next chunk already sees the last one. Prompts that are nearly done go first, see
``begun_prompts``.

Nobody overtakes a head of the queue that does not fit, whoever it is in that step. A sequence whose tenant is below its
share is taken before one that has begun but whose tenant has its share, and may displace; see ``preemption``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.engine import preemption
from cluster.engine.begun_prompts import BegunPrompts
from cluster.engine.block_manager import BlockManager
from cluster.engine.config import EngineConfig
from cluster.engine.fairness import CACHED, OUTPUT, Accounts
from cluster.engine.followers import Followers
from cluster.engine.pace import QueuePace
from cluster.engine.preemption import Shares, Size
from cluster.engine.queue import Queue
from cluster.engine.sequence import Sequence, SequenceState
from cluster.engine.step import Step, cost

MAX_HELD_PER_STEP = 8  # matching a prompt costs about 1 µs per page, and a thousand equal ones may arrive at once
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Whoever did not fit, and what there was then; not tried again before there is more, or ``until`` steps."""

    attempt: int
    slots: int
    pages: int
    until: int


class Planner:
    """Queue and batch of one engine.

    Attributes:
        cached_tokens: prompt tokens found in the cache since start.
        preemptions: sequences that lost their place since start.
    """

    def __init__(self, config: EngineConfig, blocks: BlockManager, pace: QueuePace) -> None:
        self.config = config
        self.blocks = blocks
        self.waiting = Queue()
        self.running: list[Sequence] = []
        self.accounts = Accounts()
        self.followers = Followers(config.page_size)
        self.cached_tokens = 0
        self.preemptions = 0
        self._pace = pace
        self._refusal: _Refusal | None = None
        self._num_steps = 0

    def add(self, seq: Sequence, tenant: str, weight: float) -> None:
        """Queue a new sequence."""
        seq.account = self.accounts.enter(tenant, weight)
        self.waiting.push(seq)

    def remove(self, seq: Sequence, *, keep_until: float | None) -> None:
        """Take a sequence out for good. Its pages are kept in the cache, or forgotten when ``keep_until`` is None.

        ``running`` still holds it until ``drop_finished``.
        """
        if keep_until is None:
            self.blocks.discard(seq.table)
        else:
            self.blocks.release(seq.table, keep_until=keep_until)
        if seq.state is SequenceState.RUNNING:
            seq.account.num_running -= 1
        else:
            self.waiting.remove(seq)
        self.accounts.leave(seq.account)
        seq.state = SequenceState.FINISHED
        seq.num_scheduled = 0

    def drop_finished(self) -> None:
        """Forget the sequences that were removed."""
        self.running = [seq for seq in self.running if seq.state is SequenceState.RUNNING]

    def plan(self) -> tuple[list[Sequence], list[Sequence]]:
        """Decide a step: the sequences that compute one token each, and those that compute a chunk.

        ``num_scheduled`` tells how much; it stays set until the step's result is taken.
        """
        step = Step(budget=self.config.max_batched_tokens)
        self._num_steps += 1
        for seq in self.followers.let_go():
            if seq.state is SequenceState.WAITING:
                self.waiting.put_back(seq)
        self._schedule_decodes(step)
        if len(step.decodes) < len(self.running) or self._may_come():
            self._fill(step)
        # Whoever was preempted after it was scheduled has nothing to compute.
        return [seq for seq in step.decodes if seq.num_scheduled], [seq for seq in step.prefills if seq.num_scheduled]

    # -- sequences in the batch -------------------------------------------------------------------------------------

    def _schedule_decodes(self, step: Step) -> None:
        for seq in self.running.copy():
            if seq.num_remaining == 1 and self._make_room(step, seq, 1):
                step.decodes.append(seq)
                step.budget -= 1
        for seq in step.decodes:
            if seq.num_scheduled:
                seq.account.charge(OUTPUT)
        step.is_charged = True
        if step.decodes:
            step.budget = min(step.budget, self.config.max_prefill_while_decoding)

    def _fill(self, step: Step) -> None:
        """Give what is left of the budget to prompts, in the batch and from the queue, in one order."""
        begun = [seq for seq in self.running if not seq.num_scheduled]
        step.promised = sum([self._missing(seq) for seq in begun])  # decodes have what they need
        self.followers.watch(begun)
        prompts = BegunPrompts(begun, max_lead=self.config.max_batched_tokens)
        while step.budget > 0:
            running, head = prompts.first(), None if step.is_closed else self._next()
            if head is not None and (running is None or _goes_before(head, running)):
                ending = prompts.ending_before(head)
                if ending is not None:
                    self._continue(step, prompts.take(ending))
                elif not self._take_in(step, head):
                    step.is_closed = True
            elif running is not None:
                self._continue(step, prompts.take(prompts.ending_before(running) or running))
            else:
                return

    def _continue(self, step: Step, seq: Sequence) -> None:
        if seq.state is not SequenceState.RUNNING or seq.num_scheduled:
            return
        before = self._missing(seq)
        # What another sequence has computed since the last chunk need not be computed again.
        self._skip(seq, self.blocks.extend(seq.table, seq.token_ids))
        step.promised -= before - self._missing(seq)
        self._schedule_chunk(step, seq)

    def _schedule_chunk(self, step: Step, seq: Sequence) -> None:
        before = self._missing(seq)
        if not self._make_room(step, seq, self._chunk(seq, step.budget)):
            return
        step.prefills.append(seq)
        step.budget -= seq.num_scheduled
        step.promised -= before - self._missing(seq)
        seq.account.charge(cost(seq))

    def _chunk(self, seq: Sequence, budget: int) -> int:
        """Tokens of the next chunk; it ends with the prompt or, if it can, with a page."""
        end = min(seq.num_computed + budget, len(seq.token_ids))
        if end < len(seq.token_ids):
            aligned = end - end % self.config.page_size
            end = aligned if aligned > seq.num_computed else end
        return end - seq.num_computed

    def _skip(self, seq: Sequence, found: int) -> None:
        if found:
            answered = seq.skip_cached(found)
            self.cached_tokens += answered
            seq.account.charge(CACHED * answered)

    def _missing(self, seq: Sequence) -> int:
        return self.blocks.pages_for(len(seq.token_ids)) - len(seq.table.pages)

    # -- leaving the batch ------------------------------------------------------------------------------------------

    def _make_room(self, step: Step, seq: Sequence, num_tokens: int) -> bool:
        """Schedule ``num_tokens`` of ``seq``, preempting for pages; False if it had to go itself."""
        if seq.state is not SequenceState.RUNNING:
            return False
        while not self.blocks.grow(seq.table, seq.num_computed + num_tokens):
            assert len(self.running) > 1, "a sequence that runs alone fits the pool"
            victim = preemption.victim(self.running)
            self._preempt(step, victim)
            if victim is seq:
                return False
        seq.num_scheduled = num_tokens
        return True

    def _preempt(self, step: Step, seq: Sequence) -> None:
        step.is_closed = True  # or it might come back, into the step that has it already
        if seq.num_scheduled and step.is_charged:
            seq.account.charge(-cost(seq))
        if seq.num_scheduled > 1:
            step.budget += seq.num_scheduled
        step.promised -= self._missing(seq)
        self.running.remove(seq)
        self.blocks.release(seq.table)
        seq.num_computed = seq.num_scheduled = 0
        seq.num_preemptions += 1
        seq.state = SequenceState.WAITING
        seq.account.num_running -= 1
        self.waiting.push(seq)
        self.waiting.recount(seq.account)
        self.accounts.recount(seq.account)
        self.preemptions += 1

    # -- coming into the batch --------------------------------------------------------------------------------------

    def _next(self) -> Sequence | None:
        """Who is taken next: one that has begun, unless its tenant has its share and another has not."""
        heads = self.waiting.heads()
        if len(heads) < 2 or self._is_below_share(heads[0]) or not self._is_below_share(heads[1]):
            return heads[0] if heads else None
        return heads[1]

    def _may_come(self) -> bool:
        """Whether the queue's next could find a slot. Most steps of a full batch end here."""
        head = self._next()
        return head is not None and (len(self.running) < self.config.max_num_seqs or self._may_displace(head))

    def _is_below_share(self, seq: Sequence) -> bool:
        slots = self.config.max_num_seqs * self.accounts.share(seq.account)
        return seq.account.num_running + 1 <= slots + _EPSILON

    def _take_in(self, step: Step, seq: Sequence) -> bool:
        """Take ``seq`` into the batch, or hold it back; False if it does not fit, and nobody may pass it.

        It fits if the pool can take all of it and still has a page for every running sequence.
        """
        slots = self.config.max_num_seqs - len(self.running)
        pages = self.blocks.num_available - step.promised - len(self.running)
        if self._is_refused(seq, slots, pages):
            return False
        found = self.blocks.extend(seq.table, seq.token_ids)
        leader = self.followers.leader_of(seq)
        if leader is not None:
            self._hold_back(seq, leader)
            step.num_held += 1
            return step.num_held < MAX_HELD_PER_STEP
        if self._has_room(step, seq) or self._displace(step, seq):
            self._enter(step, seq, found)
            return True
        self.blocks.release(seq.table)
        self._refusal = _Refusal(seq.attempt, slots, pages, self._num_steps + self.config.page_size)
        return False

    def _is_refused(self, seq: Sequence, slots: int, pages: int) -> bool:
        """Whether trying is in vain, known without matching its prompt."""
        last = self._refusal
        if last is not None and last.attempt == seq.attempt and self._num_steps < last.until:
            return slots <= last.slots and pages <= last.pages
        return slots <= 0 and not self._may_displace(seq)

    def _hold_back(self, seq: Sequence, leader: Sequence) -> None:
        self.blocks.release(seq.table)
        self.waiting.hold(seq)
        self.followers.hold(seq, leader)

    def _has_room(self, step: Step, seq: Sequence) -> bool:
        lacking = self._lacking(step, seq)
        return lacking.slots <= 0 and (lacking.pages <= 0 or not self.running)

    def _lacking(self, step: Step, seq: Sequence) -> Size:
        pages = self.blocks.num_available - step.promised - len(self.running)
        return Size(slots=len(self.running) + 1 - self.config.max_num_seqs, pages=self._missing(seq) - pages)

    def _may_displace(self, seq: Sequence) -> bool:
        return self._is_below_share(seq) or max([other.priority for other in self.running], default=0) > seq.priority

    def _displace(self, step: Step, seq: Sequence) -> bool:
        """Preempt those who must make room for ``seq``; False, and nobody went, if that would not be right."""
        if not self._may_displace(seq):
            return False
        whole = Size(slots=self.config.max_num_seqs, pages=self.blocks.num_pages - 1)
        shares = Shares(self.running, self.accounts, whole, self.config.page_size)
        leaving = shares.makers_of_room(seq, self._lacking(step, seq))
        for other in leaving:
            self._preempt(step, other)
        return bool(leaving)

    def _enter(self, step: Step, seq: Sequence, found: int) -> None:
        self.waiting.remove(seq)
        seq.state = SequenceState.RUNNING
        seq.account.num_running += 1
        self.running.append(seq)
        self._skip(seq, found)
        seq.num_found = seq.num_computed
        if not seq.num_preemptions:
            self._pace.admit(tokens=len(seq.token_ids), found=seq.num_computed)
        step.promised += self._missing(seq)
        self.followers.add_leader(seq)
        self._schedule_chunk(step, seq)


def _goes_before(head: Sequence, running: Sequence) -> bool:
    """Whether the queue's next gets tokens before a prompt in the batch; of one tenant, what runs goes first."""
    return (head.priority, head.account.count) < (running.priority, running.account.count)
