"""A turn read from its record and journal: the same numbered events as its owner tells, from any process.

Events are a pure projection of ids, so a reader that has seen some gets exactly the later ones. Its cursor names the
last event it has, and a checksum of the ids up to there: an answer that was computed again and differs is an error, not
a splice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing

from cluster.errors import ClusterError, CursorPastEndError, StreamDivergedError
from cluster.protocol import FinishReason, Logprobs, Usage
from services.conversations.records import TurnRecord, TurnState
from services.turns.adoption import sampling_of
from services.turns.answer import answer_item_id
from services.turns.events import Cursor, EventKind, TurnEvent, TurnResult, TurnStarted
from services.turns.parts import TurnParts
from services.turns.patience import patiently
from services.turns.projection import Projection
from services.turns.tails import Tails, Watch


class Reading:
    """One reader of one turn. ``events`` once.

    Args:
        parts: shared by all turns.
        tails: looks at turns that still run.
        tenant: whose turn.
        record: the turn's, as it was found.
        cursor: the last event that the reader has; None: it has none.
    """

    def __init__(self, parts: TurnParts, tails: Tails, tenant: str, record: TurnRecord, cursor: Cursor | None) -> None:
        self._parts = parts
        self._tails = tails
        self._tenant = tenant
        self._record = record
        self._cursor = cursor
        has_logprobs = sampling_of(record).logprobs is not None
        self._projection = Projection(parts.tokenizer, record.request.stop, logprobs=has_logprobs)
        self._has_logprobs = has_logprobs

    async def events(self) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        """Yield ``TurnStarted``, then all events to the last one.

        Those that the reader has are among them, for what a later one shows may depend on them.

        Raises:
            CursorPastEndError: the turn has no event behind the cursor. Of one that has ended, before the first event.
            StreamDivergedError: the ids up to the cursor are not those that the reader has.
            NotFoundError: the turn was erased meanwhile.
            StoreUnavailableError: the store did not answer for too long.
        """
        if self._record.state.is_open:
            yield self._started()
            async with aclosing(self._live()) as live:
                async for event in live:
                    self._check(event)
                    yield event
            return
        waiting, opening = self._opening()
        events = list(self._ended([*waiting, *opening]))
        for event in events:
            self._check(event)
        yield self._started()
        for event in events:
            yield event

    def failed(self, error: ClusterError, last: TurnEvent | None) -> TurnEvent:
        """The last event of a reading that ended in ``error``; ``last`` is the one its reader saw before."""
        usage = Usage(prompt_tokens=self._record.request.prompt_tokens, cached_tokens=0, output_tokens=0)
        result = TurnResult(FinishReason.FAILED, "", (), usage, error.code, str(error))
        seq = last.seq + 1 if last else self._cursor.seq + 1 if self._cursor else 0
        return TurnEvent(seq, 0, EventKind.BROKEN, result=result)

    def _started(self) -> TurnStarted:
        record = self._record
        return TurnStarted(
            response_id=record.id,
            item_id=answer_item_id(record.id),
            conversation=None,
            served=None,
            seed=sampling_of(record).seed,
            prompt_tokens=record.request.prompt_tokens,
            created_at=record.created_at,
        )

    def _opening(self) -> tuple[list[TurnEvent], list[TurnEvent]]:
        """The events before any id: while the turn waits, which only one in the background does, and once it runs."""
        return self._projection.wait() if self._record.request.is_background else ([], self._projection.open())

    async def _live(self) -> AsyncGenerator[TurnEvent, None]:
        watch = self._tails.open(self._tenant, self._record.id, self._record.state)
        try:
            async for event in self._until_end(watch):
                yield event
        finally:
            self._tails.close(watch)
        self._record = await self._final_record()
        for event in self._ended([]):
            yield event

    async def _final_record(self) -> TurnRecord:
        """The record of the turn that has just ended; a store that went away meanwhile is waited for."""
        store, tenant, turn = self._parts.store, self._tenant, self._record.id
        return await patiently(self._parts, lambda: store.turn(tenant, turn), self._parts.settings.journal.away_s)

    async def _until_end(self, watch: Watch) -> AsyncIterator[TurnEvent]:
        """The events up to what the journal holds when the turn ends."""
        waiting, opening = self._opening()
        for event in waiting:
            yield event
        while watch.state is TurnState.QUEUED:
            await self._news(watch)
        for event in opening:
            yield event
        while watch.state.is_open:
            for event in self._push(watch):
                yield event
            await self._news(watch)

    async def _news(self, watch: Watch) -> None:
        await watch.news.wait()
        watch.news.clear()
        if watch.error is not None:
            raise watch.error

    def _push(self, watch: Watch) -> list[TurnEvent]:
        start = len(self._projection.ids)
        return self._project(watch.ids[start:], watch.logprobs[start:])

    def _project(self, ids: list[int], logprobs: list[Logprobs]) -> list[TurnEvent]:
        return self._projection.push(ids, logprobs if self._has_logprobs else None)

    def _ended(self, before: Iterable[TurnEvent]) -> Iterable[TurnEvent]:
        """``before``, then all events up to the last, of a turn that has ended."""
        record, start = self._record, len(self._projection.ids)
        if record.ids[:start] != self._projection.ids:  # the store lost writes, and somebody went on without them
            raise self._diverged()
        yield from before
        yield from self._project(record.ids[start:], (record.logprobs or [])[start:])
        if record.state is not TurnState.FAILED:
            yield from self._projection.close()
        yield self._projection.end(EventKind(record.state.value), result_of(record, self._projection))

    def _check(self, event: TurnEvent) -> None:
        """Whether the reader, too, has had this event, and whether there is one behind its cursor.

        Whoever knows the checksum of an event has read it: if there is no such event, the answer is another one.
        """
        cursor = self._cursor
        if cursor is None or event.seq > cursor.seq:
            return
        is_end = event.result is not None
        is_same = event.seq == cursor.seq and cursor.crc == event.crc
        if cursor.crc is not None and not is_same and (is_end or event.seq == cursor.seq):
            raise self._diverged()
        if is_end:
            raise CursorPastEndError(seq=cursor.seq, last=event.seq)

    def _diverged(self) -> StreamDivergedError:
        self._parts.metrics.diverged += 1
        return StreamDivergedError("The answer was computed again and differs from what was streamed; retrieve it.")


def result_of(record: TurnRecord, projection: Projection) -> TurnResult:
    """How a turn has ended; ``projection`` has all its ids."""
    usage = record.usage
    return TurnResult(
        reason=FinishReason(record.finish or FinishReason.ABORTED),
        text=projection.text,
        ids=tuple(record.answer.ids or ()) if record.answer else (),
        usage=Usage(
            prompt_tokens=usage.get("prompt_tokens", record.request.prompt_tokens),
            cached_tokens=usage.get("cached_tokens", 0),
            output_tokens=usage.get("output_tokens", 0),
        ),
        error_code=record.error_code,
        error_message=record.error_message,
        logprobs=projection.logprobs,
    )
