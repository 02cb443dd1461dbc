"""The life of each sequence: queued, in the batch, ended; and what a step's result means for it.

Pure: it takes values (requests, the time, a step's result) and returns values, touches no tensor and does no I/O.
There are no prefill and decode steps: ``planner`` decides for every step which sequences compute how many tokens.

When pages run out, or another tenant waits for its share, a sequence releases its pages to the cache and goes back to
the queue; later it finds most of them again. No request is accepted that would not fit the pool alone, and the first
arrival of the highest class in the batch is never preempted, so every sequence ends.
A turn that goes on from elsewhere goes before those in the queue that have not begun: a client reads it.

Host time of a step, planning and bookkeeping together: at most 150 µs + 5 µs per row, however many wait
(``tests/benchmarks/bench_scheduler.py`` measures it).
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from cluster.engine import invariants, limits
from cluster.engine.admission import Admission
from cluster.engine.batch import Batch, build
from cluster.engine.block_manager import BlockManager
from cluster.engine.client import StepOutput
from cluster.engine.config import EngineConfig
from cluster.engine.guide import Guide
from cluster.engine.plan import StepResult
from cluster.engine.planner import Planner
from cluster.engine.queue import Queue
from cluster.engine.sequence import Sequence, SequenceState
from cluster.errors import InvalidRequestError
from cluster.protocol import FinishReason, Forgotten, GenerateRequest, Label, Logprobs

DEADLINE_EXCEEDED = "deadline_exceeded"
NON_FINITE = "non_finite_logits"
NOTHING_ALLOWED = "nothing_allowed"  # bias, bad words and structure leave no id to draw
STRUCTURE_BROKEN = "structure_broken"  # a guide refused the id that its own mask had allowed


@dataclass(slots=True)
class Counters:
    """Totals since start, as in ``EngineStats``."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    steps: int = 0


class Scheduler:
    """Queue, batch and pages of one engine. Not thread-safe; ``schedule`` and ``update`` alternate."""

    def __init__(self, config: EngineConfig, num_pages: int) -> None:
        self.config = config
        self.blocks = BlockManager(
            num_pages=num_pages,
            page_size=config.page_size,
            model_id=config.model_id,
            max_named_tenants=config.max_named_tenants,
        )
        self.counters = Counters()
        self.admission = Admission(config, self.blocks)
        self.planner = Planner(config, self.blocks, self.admission.pace)
        self._sequences: dict[int, Sequence] = {}
        self._outputs: list[StepOutput] = []
        self._num_arrived = 0
        self._now = 0.0  # of the latest call that told it
        self._began_at = 0.0  # when the latest step was decided
        self._deadlines: list[tuple[float, int]] = []  # heap of (deadline, attempt); the attempt may have ended

    @property
    def waiting(self) -> Queue:
        """The sequences in the queue."""
        return self.planner.waiting

    @property
    def running(self) -> list[Sequence]:
        """The sequences in the batch."""
        return self.planner.running

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
        """Tokens that sequences still need before their next draw, queued and running. O(running)."""
        return self.waiting.num_tokens + sum([len(seq.token_ids) - seq.num_computed for seq in self.running])

    def add(self, request: GenerateRequest, now: float, guide: Guide | None = None) -> None:
        """Queue a request at time ``now``; ``guide`` holds its answer to a structure.

        Raises:
            InvalidRequestError, ContextLengthExceededError: it can never be served; see ``limits.check``.
            OverloadedError: see ``Admission.check``.
        """
        limits.check(request, self.config, self.blocks.num_pages)
        if request.attempt in self._sequences:
            raise InvalidRequestError("The attempt is running already.", param="attempt")
        self.admission.check(request, self.running, self.waiting, self.planner.accounts)
        table = self.blocks.open(request.tenant, weight=request.weight, label=request.pin_key)
        seq = Sequence.from_request(request, arrival=self._num_arrived, now=now, table=table, guide=guide)
        self._num_arrived += 1
        self.counters.prompt_tokens += seq.num_prompt
        self._now = now
        self._sequences[seq.attempt] = seq
        self.planner.add(seq, request.tenant, request.weight)
        if request.deadline_s is not None:
            self._note_deadline(seq)
        if seq.is_complete:  # an earlier attempt died between its last id and its finish
            self._finish(seq, FinishReason.LENGTH)

    def abort(self, attempt: int) -> None:
        """End an attempt and free its pages; unknown attempts are ignored. Not between ``schedule`` and ``update``."""
        seq = self._sequences.get(attempt)
        if seq is not None:
            self._finish(seq, FinishReason.ABORTED)
            self._drop_finished()

    def forget(self, label: Label) -> Forgotten:
        """Free the pages of a label; see ``BlockManager.forget``. Not between ``schedule`` and ``update``.

        Sequences of the label go on, and their pages go with them: it is for their owners to end them.
        """
        self.planner.followers.end_step()
        return self.blocks.forget(label.tenant, label.pin_key)

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
        self._now = now
        self.blocks.observe(now)
        self._expire()
        decodes, prefills = self.planner.plan()
        self._began_at = now
        if self._is_warm:
            self.admission.pace.observe(now, running=len(self.running), pages=self.blocks.num_active)
        if not decodes and not prefills:
            return None
        return build(decodes, prefills, self.config.page_size, self.config.vocab_size)

    def update(self, batch: Batch, result: StepResult, now: float) -> None:
        """Take a step's result at time ``now``: index full pages, emit drawn ids, end what is complete."""
        self._now = now
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
        self._now = now
        for seq in batch.rows:
            self._finish(seq, FinishReason.FAILED, error, keep_pages=False)
        self._end_step(now)

    def _note_deadline(self, seq: Sequence) -> None:
        heappush(self._deadlines, (seq.deadline_at, seq.attempt))
        if len(self._deadlines) > 2 * len(self._sequences):  # most have ended before their time
            self._deadlines = sorted(
                (deadline, attempt) for deadline, attempt in self._deadlines if self._is_due(deadline, attempt)
            )

    def _expire(self) -> None:
        if not self._deadlines or self._deadlines[0][0] > self._now:
            return
        while self._deadlines and self._deadlines[0][0] <= self._now:
            deadline, attempt = heappop(self._deadlines)
            if self._is_due(deadline, attempt):
                self._finish(self._sequences[attempt], FinishReason.FAILED, DEADLINE_EXCEEDED)
        self._drop_finished()

    def _is_due(self, deadline: float, attempt: int) -> bool:
        """Whether the attempt has not ended, and is the one that had this deadline."""
        seq = self._sequences.get(attempt)
        return seq is not None and seq.deadline_at == deadline

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
        if seq.state is SequenceState.RUNNING:
            self.admission.pace.leave()
        keep_until = self._now + seq.keep_s if seq.keep_s else 0.0
        self.planner.remove(seq, keep_until=keep_until if keep_pages else None)
        del self._sequences[seq.attempt]
        self._outputs.append((seq.attempt, seq.finish(reason, error)))

    def _drop_finished(self) -> None:
        if len(self.running) + len(self.waiting) == len(self._sequences):
            return
        self.planner.drop_finished()

    # -- checking ---------------------------------------------------------------------------------------------------

    def debug_check(self) -> None:
        """Assert the invariants of queue, batch and pages between two steps. O(everything); for tests."""
        invariants.check(self.planner)
        members = {seq.attempt for seq in (*self.running, *self.waiting.ordered())}
        assert members == set(self._sequences), "a sequence is lost"
        noted = set(self._deadlines)
        for seq in self._sequences.values():
            assert seq.deadline_at == float("inf") or (seq.deadline_at, seq.attempt) in noted, "a deadline is forgotten"
