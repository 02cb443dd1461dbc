"""Many stored turns streamed at once, and what their clients saw: for tests that break things under load."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

TIMEOUT_S = 120.0
RETRY_AFTER_S = 0.5


@dataclass(slots=True)
class Watched:
    """One streamed answer.

    Attributes:
        body: of the request.
        rank, why: of the replica that served it first.
        text: so far.
        times: of each delta, monotonic seconds.
        sequence: numbers of all events.
        last: type of the last event; "" while it has none.
        input_tokens: of its prompt, as the last event tells.
        retries: requests before the one that was answered.
        error: what the client raised, if it did.
    """

    body: dict[str, Any]
    rank: str = ""
    why: str = ""
    text: str = ""
    times: list[float] = field(default_factory=list)
    sequence: list[int] = field(default_factory=list)
    last: str = ""
    retries: int = 0
    input_tokens: int = 0
    error: str = ""

    def has_reached(self, deltas: int) -> bool:
        """Whether it has had so many deltas, or has ended."""
        return len(self.times) >= deltas or bool(self.last or self.error)

    def longest_gap_s(self, *, since: float) -> float:
        """The longest wait for a delta that came after a moment; what the machine paused before is not its fault."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return max((after - before for before, after in pairs if after > since and before > since - 0.1), default=0.0)


class Crowd:
    """Streams many responses from one cluster.

    Args:
        url: of the cluster.
        key: of a tenant.
        retries: how often a request is sent again that failed before its answer began; OpenAI's own client does so twice.
    """

    def __init__(self, url: str, key: str, *, retries: int = 0) -> None:
        self._retries = retries
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {key}"}
        self.client = httpx.AsyncClient(base_url=f"{url}/v1", headers=headers, timeout=TIMEOUT_S, limits=limits)
        self.streams: list[Watched] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    def start(self, bodies: Sequence[dict[str, Any]]) -> list[asyncio.Task[None]]:
        """Stream them all at once; their progress is in ``streams``."""
        self.streams = [Watched(body) for body in bodies]
        return [asyncio.create_task(self._watch(stream)) for stream in self.streams]

    async def run(self, bodies: Sequence[dict[str, Any]]) -> list[Watched]:
        """Stream them all at once, to their ends."""
        await asyncio.gather(*self.start(bodies))
        return self.streams

    async def reach(self, deltas: int) -> None:
        """Wait until every stream has had so many deltas, or has ended."""
        async with asyncio.timeout(TIMEOUT_S):
            while not all(stream.has_reached(deltas) for stream in self.streams):  # noqa: ASYNC110 - reading stays cheap
                await asyncio.sleep(0.005)

    async def conversation(self) -> str:
        """A new conversation's id."""
        reply = await self.client.post("/conversations", json={})
        return str(reply.raise_for_status().json()["id"])

    async def items(self, conversation: str) -> list[tuple[str, str]]:
        """Role and text of a conversation's items, in order."""
        reply = await self.client.get(f"/conversations/{conversation}/items", params={"order": "asc"})
        items = reply.raise_for_status().json()["data"]
        return [(item["role"], "".join(part["text"] for part in item["content"])) for item in items]

    async def _watch(self, stream: Watched) -> None:
        while True:
            stream.error = ""
            try:
                await self._read(stream)
            except httpx.HTTPError as error:
                stream.error = repr(error)
            is_untouched = not stream.sequence and (not stream.error.startswith("4"))
            if not stream.error or not is_untouched or stream.retries == self._retries:
                return
            stream.retries += 1
            await asyncio.sleep(RETRY_AFTER_S)

    async def _read(self, stream: Watched) -> None:
        async with self.client.stream("POST", "/responses", json={**stream.body, "stream": True}) as reply:
            if reply.is_error:
                await reply.aread()
                stream.error = f"{reply.status_code} {reply.text}"
                return
            stream.rank, stream.why = reply.headers["x-replica-rank"], reply.headers["x-replica-why"]
            async for event in _events(reply):
                _take(stream, event)


async def _events(reply: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in reply.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _take(stream: Watched, event: dict[str, Any]) -> None:
    stream.sequence.append(event["sequence_number"])
    if event["type"] == "response.output_text.delta":
        stream.times.append(time.monotonic())
        stream.text += event["delta"]
    elif event["type"] in {"response.completed", "response.incomplete", "response.failed", "error"}:
        stream.last = event["type"]
        stream.input_tokens = ((event.get("response") or {}).get("usage") or {}).get("input_tokens", 0)
