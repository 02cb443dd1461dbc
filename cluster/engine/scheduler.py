"""Decides which tokens the next step computes, and what its result means for each sequence.

Pure: it takes values (requests, the time, a step's result) and returns values, touches no tensor and does no I/O.
There are no prefill and decode steps. Every step has a budget of tokens: running sequences that need one token come
first, then running prefills in chunks, then sequences from the queue.

``running`` followed by ``waiting`` is always in order of arrival. When pages run out, the latest arrival in the batch
releases its pages to the cache and goes to the head of the queue, where it finds most of them again; the oldest
sequence is never preempted, and no request is accepted that would not fit the pool alone, so every sequence ends.
A turn that goes on from elsewhere counts as arrived before those in the queue that have not begun: a client reads it.

Host time of a step, planning and bookkeeping together: at most 150 µs + 5 µs per row
(``tests/benchmarks/bench_scheduler.py`` measures it).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from cluster.engine import limits
from cluster.engine.admission import Admission
from cluster.engine.batch import Batch, build
from cluster.engine.block_manager import BlockManager
from cluster.engine.client import StepOutput
from cluster.engine.config import EngineConfig
from cluster.engine.guide import Guide
from cluster.engine.plan import StepResult
from cluster.engine.sequence import Sequence, SequenceState
from cluster.errors import InvalidRequestError
from cluster.protocol import FinishReason, GenerateRequest, Logprobs

DEADLINE_EXCEEDED = "deadline_exceeded"
NON_FINITE = "non_finite_logits"
NOTHING_ALLOWED = "nothing_allowed"  # bias, bad words and structure leave no id to draw
STRUCTURE_BROKEN = "structure_broken"  # a guide refused the id that its own mask had allowed


@dataclass(slots=True)
class Counters:
    """Totals since start, as in ``EngineStats``."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class _Step:
    """A step being decided: what is left of its budget, and whether pages ran out."""

    budget: int
    promised: int = 0  # pages that running prefills will still ask for
    has_preempted: bool = False
    decodes: list[Sequence] = field(default_factory=list)
    prefills: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Queue, batch and pages of one engine. Not thread-safe; ``schedule`` and ``update`` alternate."""

    def __init__(self, config: EngineConfig, num_pages: int) -> None:
        self.config = config
        self.blocks = BlockManager(num_pages=num_pages, page_size=config.page_size, model_id=config.model_id)
        self.waiting: OrderedDict[int, Sequence] = OrderedDict()
        self.running: list[Sequence] = []
        self.counters = Counters()
        self.admission = Admission(config, self.blocks)
        self._sequences: dict[int, Sequence] = {}
        self._outputs: list[StepOutput] = []
        self._num_arrived = 0
        self._began_at = 0.0  # when the latest step was decided
        self._next_deadline = math.inf  # no deadline lies before it
        self._blocked: tuple[int, int] | None = None  # attempt at the head that did not fit, and the headroom then

    @property
    def attempts(self) -> list[int]:
        """The attempts that have not ended."""
        return list(self._sequences)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute or report something."""
        return bool(self._sequences or self._outputs)

    @property
    def _is_warm(self) -> bool:
        """Whether the first step, which warms up what is loaded at first use and measures nothing, is over."""
        return self.counters.steps > 0

    @property
    def tokens_to_compute(self) -> int:
        """Tokens that sequences still need before their next draw, queued and running. O(sequences)."""
        return sum([len(seq.token_ids) - seq.num_computed for seq in self._sequences.values()])

    def add(self, request: GenerateRequest, now: float, guide: Guide | None = None) -> None:
        """Queue a request at time ``now``; ``guide`` holds its answer to a structure.

        Raises:
            InvalidRequestError, ContextLengthExceededError: it can never be served; see ``limits.check``.
            OverloadedError: see ``Admission.check``.
        """
        limits.check(request, self.config, self.blocks.num_pages)
        if request.attempt in self._sequences:
            raise InvalidRequestError("The attempt is running already.", param="attempt")
        self.admission.check(request, self.running, self.waiting.values())
        table = self.blocks.open(request.tenant)
        seq = Sequence.from_request(request, arrival=self._num_arrived, now=now, table=table, guide=guide)
        self._num_arrived += 1
        self.counters.prompt_tokens += seq.num_prompt
        self._sequences[seq.attempt] = self.waiting[seq.attempt] = seq
        if not seq.is_fresh:
            self._put_before_fresh(seq)
        self._next_deadline = min(self._next_deadline, seq.deadline_at)
        if seq.is_complete:  # an earlier attempt died between its last id and its finish
            self._finish(seq, FinishReason.LENGTH)

    def abort(self, attempt: int) -> None:
        """End an attempt and free its pages; unknown attempts are ignored. Not between ``schedule`` and ``update``."""
        seq = self._sequences.get(attempt)
        if seq is not None:
            self._finish(seq, FinishReason.ABORTED)
            self._drop_finished()

    def abandon(self, error: str) -> list[StepOutput]:
        """The last events of every attempt when the engine cannot go on: others may. Pages are not looked at."""
        finishes = [(seq.attempt, seq.finish(FinishReason.MOVED, error)) for seq in self._sequences.values()]
        self._sequences.clear()
        return [*self.take_outputs(), *finishes]

    def take_outputs(self) -> list[StepOutput]:
        """The events since the last call, in order."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def schedule(self, now: float) -> Batch | None:
        """Decide a step at time ``now``; None when nothing is to be computed."""
        self._expire(now)
        step = _Step(budget=self.config.max_batched_tokens)
        self._schedule_decodes(step)
        self._schedule_prefills(step)
        self._admit(step)
        self._began_at = now
        if self._is_warm:
            self.admission.pace.observe(now, running=len(self.running), pages=self.blocks.num_active)
        decodes = [seq for seq in step.decodes if seq.num_scheduled]  # a preempted one has none
        prefills = [seq for seq in step.prefills if seq.num_scheduled]
        if not decodes and not prefills:
            return None
        return build(decodes, prefills, self.config.page_size, self.config.vocab_size)

    def update(self, batch: Batch, result: StepResult, now: float) -> None:
        """Take a step's result at time ``now``: index full pages, emit drawn ids, end what is complete."""
        failed = {seq for seq, is_finite in zip(batch.drawing, result.finite.tolist(), strict=True) if not is_finite}
        exhausted = set() if result.exhausted is None else set(np.flatnonzero(result.exhausted).tolist())
        logprobs = {} if result.logprobs is None else result.logprobs.by_row()
        for seq in batch.rows:
            if seq not in failed:
                self._advance(seq)
        for row, (seq, token_id) in enumerate(zip(batch.drawing, result.token_ids.tolist(), strict=True)):
            if seq in failed:
                self._finish(seq, FinishReason.FAILED, NON_FINITE, keep_pages=False)
            elif row in exhausted:
                self._take_nothing(seq)
            else:
                self._take_draw(seq, token_id, logprobs.get(row))
        if len(batch.drawing) < len(batch.rows) and self._is_warm:  # a prompt is not complete, so the step was full
            num_tokens = len(batch.plan.token_ids) - batch.plan.num_decodes
            self.admission.pace.prefill(tokens=num_tokens, seconds=now - self._began_at)
        self._end_step(now)

    def fail(self, batch: Batch, error: str, now: float) -> None:
        """End every sequence of a step that could not be computed at time ``now``. Their pages are forgotten."""
        for seq in batch.rows:
            self._finish(seq, FinishReason.FAILED, error, keep_pages=False)
        self._end_step(now)

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        if now < self._next_deadline:
            return
        for seq in list(self._sequences.values()):
            if seq.deadline_at <= now:
                self._finish(seq, FinishReason.FAILED, DEADLINE_EXCEEDED)
        self._next_deadline = min((seq.deadline_at for seq in self._sequences.values()), default=math.inf)
        self._drop_finished()

    def _schedule_decodes(self, step: _Step) -> None:
        for seq in self.running.copy():
            if seq.num_remaining == 1 and self._make_room(step, seq, 1):
                step.decodes.append(seq)

    def _schedule_prefills(self, step: _Step) -> None:
        if len(step.decodes) == len(self.running):
            return
        for seq in self.running.copy():
            if not step.budget:
                return
            if not seq.num_scheduled:
                self._schedule_chunk(step, seq)

    def _schedule_chunk(self, step: _Step, seq: Sequence) -> None:
        if seq.state is not SequenceState.RUNNING:
            return
        # What another sequence has computed since the last chunk need not be computed again.
        self._extend(seq)
        if self._make_room(step, seq, self._chunk(seq, step.budget)):
            step.prefills.append(seq)
            step.promised += self.blocks.pages_for(len(seq.token_ids)) - len(seq.table.pages)

    def _chunk(self, seq: Sequence, budget: int) -> int:
        """Tokens of the next chunk; it ends with the prompt or, if it can, with a page."""
        end = min(seq.num_computed + budget, len(seq.token_ids))
        if end < len(seq.token_ids):
            aligned = end - end % self.config.page_size
            end = aligned if aligned > seq.num_computed else end
        return end - seq.num_computed

    def _extend(self, seq: Sequence) -> None:
        self._skip(seq, self.blocks.extend(seq.table, seq.token_ids))

    def _skip(self, seq: Sequence, found: int) -> None:
        if found:
            self.counters.cached_tokens += seq.skip_cached(found)

    def _make_room(self, step: _Step, seq: Sequence, num_tokens: int) -> bool:
        """Schedule ``num_tokens`` of ``seq``, preempting later arrivals for pages; False if it had to go itself."""
        if seq.state is not SequenceState.RUNNING:
            return False
        while not self.blocks.grow(seq.table, seq.num_computed + num_tokens):
            victim = self.running[-1]
            self._preempt(step, victim)
            if victim is seq:
                return False
        seq.num_scheduled = num_tokens
        step.budget -= num_tokens
        return True

    def _preempt(self, step: _Step, seq: Sequence) -> None:
        assert len(self.running) > 1, "the oldest sequence always fits the pool"
        self.running.pop()
        self.blocks.release(seq.table)
        step.budget += seq.num_scheduled
        step.has_preempted = True
        seq.num_computed = seq.num_scheduled = 0
        seq.num_preemptions += 1
        seq.state = SequenceState.WAITING
        self.waiting[seq.attempt] = seq
        self.waiting.move_to_end(seq.attempt, last=False)
        self.counters.preemptions += 1

    def _admit(self, step: _Step) -> None:
        """Move the head of the queue into the batch while slots, budget and pages allow; nobody overtakes."""
        while self.waiting and step.budget and not step.has_preempted:
            seq = next(iter(self.waiting.values()))
            if len(self.running) >= self.config.max_num_seqs or not self._fits(step, seq):
                return
            del self.waiting[seq.attempt]
            seq.state = SequenceState.RUNNING
            self.running.append(seq)
            if not seq.num_preemptions:
                self.admission.pace.admit(tokens=len(seq.token_ids), found=seq.num_computed)
            self._schedule_chunk(step, seq)

    def _fits(self, step: _Step, seq: Sequence) -> bool:
        """Whether the pool can take all of ``seq`` and still has a page for every running sequence.

        Its cached pages are taken in passing. A head that did not fit is not tried again before there is more room,
        because matching a long prompt costs about 1 µs per page.
        """
        headroom = self.blocks.num_available - step.promised - len(self.running)
        if self._blocked is not None and self._blocked[0] == seq.attempt and headroom <= self._blocked[1]:
            return False
        found = self.blocks.extend(seq.table, seq.token_ids)
        needed = self.blocks.pages_for(len(seq.token_ids)) - len(seq.table.pages)
        if not self.running or needed <= self.blocks.num_available - step.promised - len(self.running):
            self._skip(seq, found)
            return True
        self.blocks.release(seq.table)
        self._blocked = (seq.attempt, headroom)
        return False

    def _put_before_fresh(self, seq: Sequence) -> None:
        """Let ``seq``, the latest arrival, change places in the order of arrival with all that have not begun.

        Those form the queue's tail: what was preempted stands before them.
        """
        fresh = [other for other in self.waiting.values() if other.is_fresh]
        arrivals = [other.arrival for other in fresh] + [seq.arrival]
        for other, arrival in zip([seq, *fresh], arrivals, strict=True):
            other.arrival = arrival
        for other in fresh:
            self.waiting.move_to_end(other.attempt)

    # -- taking the result ------------------------------------------------------------------------------------------

    def _advance(self, seq: Sequence) -> None:
        seq.num_computed += seq.num_scheduled
        seq.num_scheduled = 0
        self.blocks.commit(seq.table, seq.token_ids, seq.num_computed)

    def _take_nothing(self, seq: Sequence) -> None:
        if seq.guide is not None and seq.guide.is_ended:
            self._finish(seq, FinishReason.STOP)
        else:
            self._finish(seq, FinishReason.FAILED, NOTHING_ALLOWED)

    def _take_draw(self, seq: Sequence, token_id: int, logprobs: Logprobs | None) -> None:
        if token_id in seq.stop_ids:
            self._finish(seq, FinishReason.STOP)
        elif seq.guide is not None and not seq.guide.accept(token_id):
            self._finish(seq, FinishReason.FAILED, STRUCTURE_BROKEN)
        else:
            self._outputs.append((seq.attempt, seq.append(token_id, logprobs)))
            self.counters.output_tokens += 1
            if seq.is_complete:
                self._finish(seq, FinishReason.LENGTH)

    def _end_step(self, now: float) -> None:
        self.counters.steps += 1
        self._drop_finished()
        if not self.running:  # what follows is no time in the batch
            self.admission.pace.observe(now, running=0, pages=0)

    def _finish(self, seq: Sequence, reason: FinishReason, error: str = "", *, keep_pages: bool = True) -> None:
        (self.blocks.release if keep_pages else self.blocks.discard)(seq.table)
        if seq.state is SequenceState.RUNNING:
            self.admission.pace.leave()
        seq.state = SequenceState.FINISHED
        seq.num_scheduled = 0
        self.waiting.pop(seq.attempt, None)
        del self._sequences[seq.attempt]
        self._outputs.append((seq.attempt, seq.finish(reason, error)))

    def _drop_finished(self) -> None:
        if len(self.running) + len(self.waiting) == len(self._sequences):
            return
        self.running = [seq for seq in self.running if seq.state is SequenceState.RUNNING]

    # -- checking ---------------------------------------------------------------------------------------------------

    def debug_check(self) -> None:
        """Assert the invariants of queue, batch and pages between two steps. O(everything); for tests."""
        queue = list(self.waiting.values())
        order = [seq.arrival for seq in self.running + queue]
        assert order == sorted(set(order)), "someone overtook"
        assert {seq.attempt for seq in self.running + queue} == set(self._sequences), "a sequence is lost"
        assert len(self.running) <= self.config.max_num_seqs, "the batch is too large"
        for seq in queue:
            assert seq.state is SequenceState.WAITING, "the queue holds a sequence that does not wait"
            assert not seq.num_computed + len(seq.table.pages), "a waiting sequence holds pages"
        for seq in self.running:
            assert seq.state is SequenceState.RUNNING, "the batch holds a sequence that does not run"
            seq.debug_check(self.config.page_size)
        self.blocks.debug_check([seq.table for seq in self.running])
