"""Several answers to one prompt, generated side by side and told as one stream.

Each answer is an attempt of its own, with a seed of its own and its own failover; they have the pin key and the hint in
common, so they meet on one replica, whose cache computes the prompt once. All of them are accepted or none: the turn
starts when the last was. One that fails ends them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import msgspec

from cluster.errors import ClusterError
from cluster.protocol import FinishReason, Hint, Served, Usage
from services.turns.draft import Draft
from services.turns.events import TurnEvent, TurnResult
from services.turns.parts import TurnParts
from services.turns.production import Frame, Production
from services.turns.sampling import choice_seed

_MAX_FRAMES: Final = 64  # read ahead of the caller; then the answers wait

_Item = Frame | Exception | None  # None: one answer is complete


class Choices:
    """Generates ``num`` answers (two or more). To its owner it looks like one ``Production``."""

    def __init__(self, parts: TurnParts, draft: Draft, num: int) -> None:
        self._metrics = parts.metrics
        self._answers = [Production(parts, _draft(draft, i), i, counts_prompt=False) for i in range(num)]
        self._items: asyncio.Queue[_Item] = asyncio.Queue(_MAX_FRAMES)
        self._accepted = asyncio.Barrier(num)

    def hints(self) -> list[Hint | None]:
        """Where the KV of each answer is."""
        return [answer.hint() for answer in self._answers]

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Yield one ``Served`` once all are, then the events of all answers, up to but without the last event.

        Closing it aborts all of them.

        Raises:
            ClusterError: what the first one to fail ended in.
        """
        tasks = [asyncio.create_task(self._fill(answer), name="turn-choice") for answer in self._answers]
        try:
            async with aclosing(self._merged()) as frames:
                async for frame in frames:
                    yield frame
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._metrics.cached_tokens += self.usage().cached_tokens

    async def _fill(self, answer: Production) -> None:
        try:
            async with aclosing(answer.frames()) as frames:
                async for frame in frames:
                    await self._items.put(frame)
                    if isinstance(frame, Served):
                        await self._accepted.wait()
            await self._items.put(answer.close())
            await self._items.put(None)
        except Exception as error:  # noqa: BLE001 - raised again where the frames are read
            await self._items.put(error)

    async def _merged(self) -> AsyncGenerator[Frame, None]:
        num_waiting = num_running = len(self._answers)
        while num_running:
            item = await self._items.get()
            if item is None:
                num_running -= 1
            elif isinstance(item, Exception):
                raise item
            elif isinstance(item, Served):
                num_waiting -= 1
                if not num_waiting:
                    yield self._count_served()
            else:
                yield item

    def _count_served(self) -> Served:
        served = self._answers[0].served
        assert served is not None, "all are"
        self._metrics.pins[served.why] += 1
        self._metrics.prompt_tokens += self.usage().prompt_tokens
        return served

    def close(self) -> Sequence[TurnEvent]:
        """Nothing: each answer has closed itself."""
        return ()

    def end(self, result: TurnResult) -> TurnEvent:
        """The last event."""
        return self._answers[0].end(result)

    def failed(self, error: ClusterError, last: TurnEvent | None) -> TurnEvent:
        """The last event of answers that go no further; it follows ``last``, the event seen before it."""
        event = self._answers[0].failed(error, last)
        assert event.result is not None, "the last event has a result"
        return replace(event, result=replace(event.result, usage=self.usage()))

    def result(self) -> TurnResult:
        """How all of them ended; LENGTH as soon as one was cut."""
        results = tuple(answer.result() for answer in self._answers)
        is_cut = any(result.reason is FinishReason.LENGTH for result in results)
        reason = FinishReason.LENGTH if is_cut else results[0].reason
        return replace(results[0], reason=reason, usage=self.usage(), choices=results)

    def usage(self) -> Usage:
        """The prompt once, and all outputs. Cached is what the answer that found least found.

        The others may have found what that one had just computed.
        """
        usages = [answer.usage() for answer in self._answers]
        return Usage(
            prompt_tokens=usages[0].prompt_tokens,
            cached_tokens=min(usage.cached_tokens for usage in usages),
            output_tokens=sum(usage.output_tokens for usage in usages),
        )


def _draft(draft: Draft, choice: int) -> Draft:
    sampling = draft.request.sampling
    own = msgspec.structs.replace(sampling, seed=choice_seed(sampling.seed, choice))
    return replace(draft, request=msgspec.structs.replace(draft.request, sampling=own))
