"""Turns that say what a test told them to, and can be stopped at a gate in mid-answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator

from cluster.protocol import FinishReason, Served, Usage
from cluster.tokenizer.tool_calls import ToolCall
from services.turns.events import ChatTurn, EventKind, StoredTurn, TurnEvent, TurnResult, TurnStarted

USAGE = Usage(prompt_tokens=7, cached_tokens=3, output_tokens=2)
RESPONSE_ID = "resp_abcdefghijklmnopabcdefghijklmnop"
ITEM_ID = "msg_abcdefghijklmnopabcdefghijklmnop"
_ENDS = {
    FinishReason.STOP: EventKind.COMPLETED,
    FinishReason.LENGTH: EventKind.INCOMPLETE,
    FinishReason.ABORTED: EventKind.CANCELLED,
    FinishReason.FAILED: EventKind.FAILED,
}


class FakeTurns:
    """See services.gateway.deps.Turns.

    Attributes:
        deltas: the answer.
        reason: how turns end; ``error`` is the code and message of a failed one.
        refusal: raised instead of starting.
        explosion: raised after the answer, instead of the last events.
        call: behind the answer's text; None for none.
        gate: while it is unset, a started turn waits before its answer.
        asked: every turn, in order.
        waiting: set when a turn waits at the gate.
        closed: set when a turn was ended from outside.
    """

    def __init__(self) -> None:
        self.deltas = ["Hello", " 你好"]
        self.reason = FinishReason.STOP
        self.error = ("", "")
        self.call: ToolCall | None = None
        self.refusal: Exception | None = None
        self.explosion: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[ChatTurn | StoredTurn] = []
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()

    def chat(self, turn: ChatTurn) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        """A stateless turn."""
        return self._run(turn, "", None)

    def respond(self, turn: StoredTurn) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        """A stored turn."""
        return self._run(turn, RESPONSE_ID, turn.conversation)

    async def _run(
        self, turn: ChatTurn | StoredTurn, response_id: str, conversation: str | None
    ) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        self.asked.append(turn)
        if self.refusal is not None:
            raise self.refusal
        served = Served(rank=1, incarnation="replica-b", why="placed")
        is_ended = False
        try:
            yield TurnStarted(response_id, ITEM_ID, conversation, served, 42, USAGE.prompt_tokens, 1_700_000_000)
            for event in self._opening():
                yield event
            await self._pass_gate()
            for event in self._answer():
                yield event
            is_ended = True
        finally:
            if not is_ended:
                self.closed.set()

    async def _pass_gate(self) -> None:
        if not self.gate.is_set():
            self.waiting.set()
        await self.gate.wait()

    def _opening(self) -> Iterator[TurnEvent]:
        kinds = (EventKind.CREATED, EventKind.IN_PROGRESS, EventKind.ITEM_ADDED, EventKind.PART_ADDED)
        return (TurnEvent(seq, 0, kind) for seq, kind in enumerate(kinds))

    def _answer(self) -> Iterator[TurnEvent]:
        seq, text = 3, "".join(self.deltas)
        for delta in self.deltas:
            seq += 1
            yield TurnEvent(seq, 0xAB, EventKind.TEXT_DELTA, delta)
        if self.explosion is not None:
            raise self.explosion
        if self.reason is not FinishReason.FAILED:
            for kind in (EventKind.TEXT_DONE, EventKind.PART_DONE, EventKind.ITEM_DONE):
                seq += 1
                yield TurnEvent(seq, 0xAB, kind, text)
        if self.call is not None:
            seq += 1
            yield TurnEvent(seq, 0xAB, EventKind.TOOL_CALL, call=self.call)
        result = TurnResult(self.reason, text, (5, 6), USAGE, *self.error, call=self.call)
        yield TurnEvent(seq + 1, 0xAB, _ENDS[self.reason], result=result)
