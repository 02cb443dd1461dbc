"""A turn that lives in this process only: no record, no journal; when its caller leaves, it is over."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from cluster.errors import ClusterError
from cluster.protocol import Hint, Served
from services.conversations import ids
from services.conversations.store import Sampled
from services.turns import splice
from services.turns.choices import Choices
from services.turns.draft import Draft, draft_chat
from services.turns.events import ChatTurn, Message, TurnEvent, TurnResult, TurnStarted
from services.turns.metrics import Account
from services.turns.parts import TurnParts
from services.turns.production import Production
from services.turns.tools import shown_messages


class StatelessTurn:
    """One stateless turn. ``events`` once."""

    def __init__(self, parts: TurnParts, turn: ChatTurn) -> None:
        self._parts = parts
        self._turn = turn
        self._created_at = int(time.time())
        self._production: Production | Choices | None = None

    async def events(self) -> AsyncGenerator[TurnStarted | TurnEvent, None]:
        """Yield ``TurnStarted``, then the numbered events. Closing it aborts the generation at once.

        Raises:
            ClusterError: at any point; ``failed`` makes a last event of it.
        """
        with Account(self._parts.metrics) as account:
            messages = shown_messages(self._turn)
            draft = await draft_chat(self._parts, self._turn, messages)
            production = self._production = self._produce(draft)
            async with aclosing(production.frames()) as frames:
                async for frame in frames:
                    if isinstance(frame, Served):
                        account.is_started = True
                        yield self._started(draft, frame)
                    else:
                        for event in frame:
                            yield event
            for event in production.close():
                yield event
            end = await self._end(production, messages)
            account.outcome = end.kind.value
            yield end

    def failed(self, error: ClusterError, last: TurnEvent | None) -> TurnEvent:
        """The last event of a started turn that ended in ``error``; ``last`` is the one its caller saw before."""
        assert self._production is not None, "a started turn has a production"
        return self._production.failed(error, last)

    def _produce(self, draft: Draft) -> Production | Choices:
        num = self._turn.choices
        return Choices(self._parts, draft, num) if num > 1 else Production(self._parts, draft)

    async def _end(self, production: Production | Choices, messages: Sequence[Message]) -> TurnEvent:
        result = production.result()
        for answer, hint in zip(result.choices or (result,), production.hints(), strict=True):
            if answer.text or answer.call:  # before the last event: whoever has seen it may send it back at once
                await self._remember(answer, hint, messages)
        return production.end(result)

    async def _remember(self, answer: TurnResult, hint: Hint | None, messages: Sequence[Message]) -> None:
        tenant, fingerprint = self._turn.tenant, self._parts.model.fingerprint
        key = splice.answer_key(tenant, fingerprint, messages, answer.text, answer.call)
        await self._parts.index.put(key, Sampled(list(answer.ids), hint))

    def _started(self, draft: Draft, served: Served) -> TurnStarted:
        return TurnStarted(
            response_id="",
            item_id=ids.new_item(ids.new_conversation()),
            conversation=None,
            served=served,
            seed=draft.request.sampling.seed,
            prompt_tokens=draft.prompt_tokens,
            created_at=self._created_at,
        )
