"""A client that talks turn by turn as long as it is let, in every way that the API offers, and never gives up easily.

It does what a sensible client does: one idempotency key a turn, so that it can always send again; ``Retry-After`` is
waited for; a conversation that is busy is waited for by polling the response that holds it; a stream that breaks is
picked up behind the last event that was read; one that diverged is retrieved.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.connection import ENDS, Caller
from tests.chaos.record import Ask, End, Event, Listed, Read, Reply, now

PATIENCE_S = 240.0  # a turn that takes longer is stuck; no promise says how long one may take on a machine that starves
PAUSE_S = 0.4  # before something is tried again, on average
POLL_S = 0.5
MAX_TURNS = 10  # of one conversation; then another one is begun
RETRIED = {0, 429, 500, 502, 503, 504}
DIVERGED = "stream_diverged"  # what was read is not what is kept: by an event, or before the first one
OPEN = {"queued", "in_progress"}
FORKS = 0.25  # of the turns behind an earlier answer, how many are not behind the last one

KINDS = {
    "stream": 3,
    "stream dropped": 4,  # the client leaves in mid-answer, and comes back
    "stream resent": 2,  # the connection is gone before response.created is read
    "whole": 2,  # no stream
    "background polled": 3,
    "background streamed": 2,
    "background impatient": 1,  # the next turn of the conversation is sent at once
}


@dataclass
class Talker:
    """One client. ``talk`` as a task; let it end by ``stop``.

    Attributes:
        name: makes its turns its own.
        caller: its connections.
        rng: decides.
        kinds: of its turns, with how often each comes.
        is_in_turn: whether a turn of it was accepted and has not ended yet.
    """

    name: str
    caller: Caller
    rng: random.Random
    kinds: Mapping[str, int] = field(default_factory=lambda: KINDS)
    is_in_turn: bool = False
    _is_over: bool = False
    _count: int = 0
    _waiting: list[tuple[Ask, str]] = field(default_factory=list)  # turns that it has left to the background

    def __post_init__(self) -> None:
        self.caller.on_begun = self._begun

    def stop(self) -> None:
        """Let the turn under way be the last one."""
        self._is_over = True

    async def talk(self) -> None:
        """Hold conversations, one after the other."""
        while not self._is_over:
            await self._converse()

    async def _converse(self) -> None:
        conversation = await self._begin() if self.rng.random() < 0.5 else ""
        answers: list[str] = []
        for _ in range(self.rng.randint(3, MAX_TURNS)):
            if self._is_over:
                break
            end = await self._turn(self._ask(conversation, answers))
            if end.state in {"completed", "incomplete", "cancelled"}:
                answers.append(end.response)
        await self._end_waiting()
        if conversation:
            await self._list(conversation)

    async def _begin(self) -> str:
        while (conversation := await self.caller.conversation()) is None:
            await self._pause()
        return conversation

    async def _list(self, conversation: str) -> None:
        while (items := await self.caller.items(conversation)) is None:
            await self._pause()
        self.caller.log.write(Listed(at=now(), conversation=conversation, items=items))

    def _ask(self, conversation: str, answers: list[str]) -> Ask:
        self._count += 1
        name = f"{self.name}.{self._count:03}"
        (kind,) = self.rng.choices(list(self.kinds), list(self.kinds.values()))
        if kind == "background impatient" and not conversation:
            kind = "background polled"  # there is nothing to wait for behind an earlier answer
        previous = ""
        if answers and not conversation:
            previous = self.rng.choice(answers) if self.rng.random() < FORKS else answers[-1]
        ask = Ask(
            at=now(),
            ask=name,
            talker=self.name,
            kind=kind,
            input=f"{name}: what of {self.rng.randrange(10**6)}?",
            key=f"{name}-{self.rng.getrandbits(64):x}",
            conversation=conversation,
            previous=previous,
            tokens=self.rng.randint(16, 80),
        )
        self.caller.log.write(ask)
        return ask

    def _begun(self) -> None:
        self.is_in_turn = True

    # -- one turn ------------------------------------------------------------------------------------------------------

    async def _turn(self, ask: Ask) -> End:
        try:
            async with asyncio.timeout(PATIENCE_S):
                end = await self._said(ask)
        except TimeoutError:
            end = End(at=now(), ask=ask.ask, response="", state="stuck")
        self.is_in_turn = False
        return self._ended(end)

    def _ended(self, end: End) -> End:
        if end.state != "left":
            self.caller.log.write(end)
        return end

    async def _said(self, ask: Ask) -> End:
        if ask.kind == "background impatient":
            return await self._leave(ask)
        if ask.kind in {"whole", "background polled"}:
            return await self._polled(ask, await self._created(ask))
        return await self._streamed(ask)

    async def _leave(self, ask: Ask) -> End:
        reply = await self._created(ask)
        if reply.response:
            self._waiting.append((ask, reply.response))
        return _end(ask, reply, state="left" if reply.response else "")

    async def _end_waiting(self) -> None:
        for ask, response in self._waiting:
            reply = await self._ended_reply(ask, response)
            self._ended(_end(ask, reply))
        self._waiting.clear()

    async def _created(self, ask: Ask) -> Reply:
        """The answer to a turn that was sent as often as it took."""
        while True:
            reply = await self.caller.create(ask)
            if not await self._may_go_on(ask, reply):
                self.is_in_turn = reply.state in OPEN
                return reply

    async def _polled(self, ask: Ask, reply: Reply) -> End:
        if reply.state in OPEN or (reply.response and self.rng.random() < 0.3):
            reply = await self._ended_reply(ask, reply.response)
        return _end(ask, reply)

    async def _ended_reply(self, ask: Ask, response: str) -> Reply:
        """A response once it has ended."""
        while True:
            reply = await self.caller.retrieve(ask, response)
            if reply.status not in RETRIED and reply.state not in OPEN:
                return reply
            await asyncio.sleep(POLL_S * self.rng.uniform(0.5, 1.5))

    async def _may_go_on(self, ask: Ask, reply: Reply) -> bool:
        """Whether the request is to be sent again, once it may get in."""
        if reply.status == 409 and reply.active:
            await self._ended_reply(ask, reply.active)
            return True
        if reply.status in RETRIED:
            await self._pause(1.0 if reply.status in {429, 503} else 0.0)
            return True
        return False

    async def _streamed(self, ask: Ask) -> End:
        if ask.kind == "stream resent":
            await self._send_and_drop(ask)
        got: Read | Reply = await self._send(ask)
        response, last = got.response, None
        while isinstance(got, Read) and got.end not in {"ended", DIVERGED}:
            last = got.events[-1] if got.events else last
            got = await self._picked_up(ask, response, last)
        if (got.end if isinstance(got, Read) else got.code) == DIVERGED:
            return _end(ask, await self._ended_reply(ask, response))
        return await self._last(ask, got, got.events[-1]) if isinstance(got, Read) else _end(ask, got)

    async def _send_and_drop(self, ask: Ask) -> None:
        try:
            async with asyncio.timeout(self.rng.uniform(0.0, 0.2)):
                await self.caller.stream(ask)
        except TimeoutError:
            await self._pause()

    async def _send(self, ask: Ask) -> Read | Reply:
        while True:
            got = await self.caller.stream(ask, drop_after=self._drop_after(ask))
            if isinstance(got, Read) or not await self._may_go_on(ask, got):
                return got

    async def _picked_up(self, ask: Ask, response: str, last: Event | None) -> Read | Reply:
        while True:
            await self._pause()
            by = self.rng.choice(["Last-Event-ID", "Last-Event-ID", "starting_after"])
            got = await self.caller.resume(ask, response, last, by=by, drop_after=self._drop_after(ask, again=0.3))
            if isinstance(got, Read) or not await self._may_go_on(ask, got):
                return got

    async def _last(self, ask: Ask, got: Read, event: Event) -> End:
        assert event.type in ENDS
        if self.rng.random() < 0.3:
            reply = await self._ended_reply(ask, got.response)
            if (reply.state, reply.text) != (event.state, event.text):
                return _end(ask, reply, state=f"told as {event.state}, retrieved as {reply.state} or with another text")
        return End(at=now(), ask=ask.ask, response=got.response, state=event.state, text=event.text)

    def _drop_after(self, ask: Ask, *, again: float = 1.0) -> int | None:
        if ask.kind not in {"stream dropped", "background streamed"} or self.rng.random() > again:
            return None
        return self.rng.randint(1, 40)

    async def _pause(self, at_least_s: float = 0.0) -> None:
        await asyncio.sleep(at_least_s + PAUSE_S * self.rng.uniform(0.2, 1.8))


def _end(ask: Ask, reply: Reply, state: str = "") -> End:
    state = state or reply.state or f"refused: {reply.status} {reply.code}"
    return End(at=now(), ask=ask.ask, response=reply.response, state=state, text=reply.text)
