"""A backend whose answers are written down beforehand: for tests and benchmarks of all that is above it.

It keeps the seam's promises (order, no gaps, ``output_ids`` go on, closing aborts) and can break them on demand, one
``Fault`` per attempt in the order given. It waits for nothing but a gate that a test holds, so runs are repeatable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import log

from cluster.errors import ChannelError, ClusterError, NoReplicaError, OverloadedError
from cluster.protocol import Event, Finish, FinishReason, GenerateRequest, Label, Logprobs, Served, Tokens, Usage
from services.backend.base import Erased

Answer = Callable[[GenerateRequest], Sequence[int]]


class FaultKind(StrEnum):
    """How an attempt goes wrong."""

    NONE = "none"
    OVERLOADED = "overloaded"  # refused before it is served
    NO_REPLICA = "no_replica"  # refused before it is served
    UNREACHABLE = "unreachable"  # the channel cannot be opened
    LOST = "lost"  # the channel breaks after ``after`` ids of the answer
    CUT = "cut"  # the stream ends there without a ``Finish``
    GAP = "gap"  # one id is missing there
    MOVED = "moved"  # the replica drains there
    FAILED = "failed"  # the engine gives this sequence up there


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one attempt, and after how many ids of the whole answer; a refusal tells when to retry."""

    kind: FaultKind = FaultKind.NONE
    after: int = 0
    retry_after_s: float = 1.0


_REFUSALS: dict[FaultKind, Callable[[float], ClusterError]] = {
    FaultKind.OVERLOADED: lambda wait_s: OverloadedError("The engine's queue is full.", retry_after_s=wait_s),
    FaultKind.NO_REPLICA: lambda wait_s: NoReplicaError("No replica is alive.", retry_after_s=wait_s),
    FaultKind.UNREACHABLE: lambda _: ChannelError("The token channel at 127.0.0.1:9 cannot be opened."),
}
_ENDINGS = {FaultKind.MOVED: FinishReason.MOVED, FaultKind.FAILED: FinishReason.FAILED}
_KEPT_SEQUENCES = 64  # what the pretended caches remember
_PAGE = 16  # tokens, when the pages of these are counted


@dataclass(slots=True)
class _Kept:
    """What a pretended replica has computed for one request; ``is_forgotten`` while it runs: not to be kept."""

    incarnation: str
    label: Label
    ids: list[int]
    is_forgotten: bool = False

    def pages(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Its full pages, each named by everything up to its end."""
        return ((self.incarnation, tuple(self.ids[:end])) for end in range(_PAGE, len(self.ids) + 1, _PAGE))


@dataclass(slots=True)
class ScriptedBackend:
    """Gives each request the ids of ``answer``, ``frame`` ids at a time, then stops (or meets ``max_new_tokens``).

    Attributes:
        answer: the ids of the whole answer, or a function of the request. No stop ids.
        frame: ids per ``Tokens``.
        incarnations: replicas by rank. An attempt goes to its hint's incarnation, else to the first one not avoided.
        full: replicas without room, and how long that lasts in seconds.
        faults: taken one per attempt; none left means no fault.
        unreachable: replicas that do not hear what they are to forget.
        gate: while it is unset, an attempt that has been served waits before its next ids.
        requests: every request that came, in order.
        aborted: attempts whose stream was closed before its ``Finish``, in order.
    """

    answer: Answer | Sequence[int]
    frame: int = 1
    incarnations: Sequence[str] = ("replica-a", "replica-b")
    full: Mapping[str, float] = field(default_factory=dict)
    faults: Iterable[Fault] = ()
    unreachable: set[str] = field(default_factory=set)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[GenerateRequest] = field(default_factory=list)
    aborted: list[int] = field(default_factory=list)
    _kept: deque[_Kept] = field(default_factory=lambda: deque(maxlen=_KEPT_SEQUENCES))
    _running: dict[int, _Kept] = field(default_factory=dict)  # by attempt

    def __post_init__(self) -> None:
        self.faults = iter(self.faults)
        self.gate.set()

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """See :class:`services.backend.base.Backend`."""
        self.requests.append(request)
        fault = next(iter(self.faults), Fault())
        refusal = _REFUSALS.get(fault.kind)
        if refusal:
            raise refusal(fault.retry_after_s)
        served = self._place(request)
        finished = False
        try:
            yield served
            async for event in self._generate(request, fault, served.incarnation):
                finished = isinstance(event, Finish)
                yield event
        finally:
            if not finished:
                self.aborted.append(request.attempt)
            self._keep(request.attempt)

    async def forget(self, labels: Sequence[Label]) -> Erased:
        """See :class:`services.backend.base.Backend`."""
        missed = self.unreachable.intersection(self.incarnations)
        mine = [kept for kept in self._kept if kept.label in labels and kept.incarnation not in missed]
        running = [kept for kept in self._running.values() if kept.label in labels and kept.incarnation not in missed]
        for kept in mine:
            self._kept.remove(kept)
        for kept in running:
            kept.is_forgotten = True
        return Erased(
            dropped=len({page for kept in mine for page in kept.pages()}),
            held=len({page for kept in running for page in kept.pages()}),
            reached=frozenset(self.incarnations) - missed,
            missed=frozenset(missed),
        )

    def _keep(self, attempt: int) -> None:
        """What an attempt has computed is found by later ones, however it ended."""
        kept = self._running.pop(attempt, None)
        if kept is not None and not kept.is_forgotten:
            self._kept.append(kept)

    def _place(self, request: GenerateRequest) -> Served:
        free = [name for name in self.incarnations if name not in request.avoid]
        if not free:
            raise NoReplicaError("Every replica is to be avoided.", retry_after_s=1.0)
        hint = request.hint.incarnation if request.hint else ""
        name = min(free, key=lambda one: (one in request.busy, one != hint))
        if name in self.full:
            raise OverloadedError("The engine's queue is full.", retry_after_s=self.full[name], refused_by=name)
        why = "moved" if request.avoid else "pinned" if name == hint else "placed"
        return Served(rank=list(self.incarnations).index(name), incarnation=name, why=why)

    async def _generate(
        self, request: GenerateRequest, fault: Fault, incarnation: str
    ) -> AsyncGenerator[Tokens | Finish, None]:
        answer = list(self.answer(request) if callable(self.answer) else self.answer)
        end = min(len(answer), request.sampling.max_new_tokens)
        if fault.kind is not FaultKind.NONE:
            end = min(end, fault.after)
        cached_tokens = self._cached_tokens(request, incarnation)
        first = len(request.output_ids)
        running = self._begin(request, incarnation)
        for start in range(first, end, self.frame):
            await self.gate.wait()
            ids = answer[start : min(start + self.frame, end)]
            running.ids += ids
            found = cached_tokens if start == first else None
            yield Tokens(start=start, ids=ids, cached_tokens=found, logprobs=_logprobs(ids, request.sampling.logprobs))
            await asyncio.sleep(0)  # an engine gives way between steps; so does this
        await self.gate.wait()
        usage = Usage(prompt_tokens=len(request.prompt_ids), cached_tokens=cached_tokens, output_tokens=end)
        for event in self._ending(request, fault, answer, usage):
            yield event

    def _begin(self, request: GenerateRequest, incarnation: str) -> _Kept:
        label = Label(tenant=request.tenant, pin_key=request.pin_key)
        running = self._running[request.attempt] = _Kept(incarnation, label, request.prompt_ids + request.output_ids)
        return running

    def _ending(
        self, request: GenerateRequest, fault: Fault, answer: list[int], usage: Usage
    ) -> Iterator[Tokens | Finish]:
        total = usage.output_tokens
        if fault.kind is FaultKind.CUT:
            return
        if fault.kind is FaultKind.LOST:
            raise ChannelError("The token channel broke.")
        if fault.kind is FaultKind.GAP:
            yield Tokens(start=total + 1, ids=answer[total + 1 : total + 2])
        is_whole = len(answer) < request.sampling.max_new_tokens
        reason = _ENDINGS.get(fault.kind, FinishReason.STOP if is_whole else FinishReason.LENGTH)
        error = "The logits of this sequence hold NaN." if reason is FinishReason.FAILED else ""
        yield Finish(reason=reason, total=total, usage=usage, error=error)

    def _cached_tokens(self, request: GenerateRequest, incarnation: str) -> int:
        """The longest prefix of the prompt that this replica has computed for this tenant, but for its last token."""
        found = [
            kept.ids for kept in self._kept if (kept.incarnation, kept.label.tenant) == (incarnation, request.tenant)
        ]
        longest = max((_common_prefix(request.prompt_ids, ids) for ids in found), default=0)
        return min(longest, len(request.prompt_ids) - 1)


def logprobs_of(token_id: int, num_best: int) -> Logprobs:
    """What this backend reports of an id: it is the best one, and each of the ids behind it half as probable."""
    halves = [-(i + 1) * log(2) for i in range(num_best)]
    return Logprobs(drawn=-log(2), top_ids=[token_id + i for i in range(num_best)], top=halves)


def _logprobs(ids: Sequence[int], num_best: int | None) -> list[Logprobs] | None:
    return None if num_best is None else [logprobs_of(token_id, num_best) for token_id in ids]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
