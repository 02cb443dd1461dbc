"""Conversations that go on turn by turn, stored ones and stateless ones, and where each turn was served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.cluster import MODEL


@dataclass(slots=True)
class Talker:
    """One conversation and its client.

    Attributes:
        name: makes its questions its own.
        conversation: id of the stored conversation; "" for a client that keeps the history itself.
        ranks, whys: of its turns, in order.
    """

    name: str
    conversation: str = ""
    ranks: list[str] = field(default_factory=list)
    whys: list[str] = field(default_factory=list)
    _messages: list[dict[str, Any]] = field(default_factory=list)

    async def say(self, client: httpx.AsyncClient, text: str, *, tokens: int = 6) -> None:
        """One more turn. Raises httpx.HTTPError when it fails."""
        question = f"{self.name} says: {text}"
        if self.conversation:
            reply = await client.post("/responses", json=self._response(question, tokens))
        else:
            self._messages.append({"role": "user", "content": question})
            reply = await client.post("/chat/completions", json=self._completion(tokens))
        reply.raise_for_status()
        if not self.conversation:
            self._messages.append({"role": "assistant", "content": reply.json()["choices"][0]["message"]["content"]})
        self.ranks.append(reply.headers["x-replica-rank"])
        self.whys.append(reply.headers["x-replica-why"])

    def _response(self, question: str, tokens: int) -> dict[str, Any]:
        asked = {"conversation": self.conversation, "input": question, "max_output_tokens": max(tokens, 16)}
        return {"model": MODEL, "temperature": 0, "ignore_eos": True, **asked}

    def _completion(self, tokens: int) -> dict[str, Any]:
        asked = {"messages": self._messages, "max_tokens": tokens}
        return {"model": MODEL, "temperature": 0, "ignore_eos": True, **asked}
