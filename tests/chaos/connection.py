"""Requests of one client, each written down with all that came of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import httpx

from tests.chaos.record import NO_CURSOR, Ask, Event, Log, Read, Reply, now

STREAM_TIMEOUT_S = 20.0  # a silent stream has a comment every 15 s
REPLY_TIMEOUT_S = 40.0
CONNECT_TIMEOUT_S = 5.0
ENDS = {"response.completed", "response.incomplete", "response.failed"}

_RESPONSE_ID = re.compile(r"resp_[a-z2-7]{32}")


class Caller:
    """Speaks to a cluster, and writes down what it hears.

    Args:
        client: with the URL and the key; shared by all.
        model: what to ask for.
        log: where to write.
        on_begun: called when a stream tells that its turn was accepted.
    """

    def __init__(
        self, client: httpx.AsyncClient, model: str, log: Log, on_begun: Callable[[], None] = lambda: None
    ) -> None:
        self.log = log
        self.on_begun = on_begun
        self._client = client
        self._model = model

    async def create(self, ask: Ask) -> Reply:
        """Send a turn whose answer comes in one piece, or later."""
        return await self._reply(ask, "create", "POST", "/responses", json=self._body(ask, is_stream=False))

    async def retrieve(self, ask: Ask, response: str) -> Reply:
        """Ask how a response is now."""
        return await self._reply(ask, "retrieve", "GET", f"/responses/{response}")

    async def stream(self, ask: Ask, *, drop_after: int | None = None) -> Read | Reply:
        """Send a turn and read its events; leave after so many. A Reply: there were none, and why."""
        body = self._body(ask, is_stream=True)
        request = {"method": "POST", "url": "/responses", "json": body, "headers": {"idempotency-key": ask.key}}
        return await self._read(ask, request, drop_after)

    async def resume(
        self, ask: Ask, response: str, last: Event | None, *, by: str, drop_after: int | None = None
    ) -> Read | Reply:
        """Read a response's events behind the last one that there was."""
        params, headers = {"stream": "true"}, {}
        if last is None:
            by = "nothing"
        elif by == "starting_after":
            params[by] = str(last.seq)
        else:
            headers["last-event-id"] = last.id
        cursor = NO_CURSOR if last is None else last.seq
        request = {"method": "GET", "url": f"/responses/{response}", "params": params, "headers": headers}
        return await self._read(ask, request, drop_after, response=response, cursor=cursor, by=by)

    async def conversation(self) -> str | None:
        """A new conversation's id; None: try again."""
        try:
            reply = await self._client.post("/conversations", json={}, timeout=REPLY_TIMEOUT_S)
        except httpx.HTTPError:
            return None
        return str(reply.json()["id"]) if reply.is_success else None

    async def items(self, conversation: str) -> list[tuple[str, str]] | None:
        """Role and text of its items, oldest first; None: try again."""
        found: list[tuple[str, str]] = []
        params = {"order": "asc", "limit": "100"}
        while True:
            try:
                reply = await self._client.get(f"/conversations/{conversation}/items", params=params)
            except httpx.HTTPError:
                return None
            if not reply.is_success:
                return None
            page = reply.json()
            found += [(item["role"], "".join(part["text"] for part in item["content"])) for item in page["data"]]
            if not page["has_more"]:
                return found
            params["after"] = page["last_id"]

    def _body(self, ask: Ask, *, is_stream: bool) -> dict[str, Any]:
        place = {"conversation": ask.conversation, "previous_response_id": ask.previous}
        return {
            "model": self._model,
            "input": ask.input,
            "max_output_tokens": ask.tokens,
            **{name: value for name, value in place.items() if value},
            **({"stream": True} if is_stream else {}),
            **({"background": True} if ask.is_background else {}),
        }

    async def _reply(self, ask: Ask, what: str, method: str, path: str, **options: Any) -> Reply:
        headers = {"idempotency-key": ask.key} if method == "POST" else {}
        try:
            got = await self._client.request(
                method, path, headers=headers, timeout=_timeout(REPLY_TIMEOUT_S), **options
            )
        except httpx.HTTPError as error:
            return self._keep(Reply(at=now(), ask=ask.ask, what=what, status=0, code=type(error).__name__))
        return self._keep(_reply_of(ask, what, got.status_code, got.content))

    async def _read(
        self,
        ask: Ask,
        request: dict[str, Any],
        drop_after: int | None,
        *,
        response: str = "",
        cursor: int = NO_CURSOR,
        by: str = "nothing",
    ) -> Read | Reply:
        heard = _Heard(response, self.on_begun)
        try:
            async with self._client.stream(timeout=_timeout(STREAM_TIMEOUT_S), **request) as got:
                if not got.is_success:
                    return self._keep(_reply_of(ask, "stream", got.status_code, await got.aread()))
                await heard.listen(got, drop_after)
        except httpx.HTTPError as error:
            heard.error = type(error).__name__
        finally:  # also of a client that drops the connection while it waits
            read = Read(at=now(), ask=ask.ask, cursor=cursor, by=by, **heard.fields())
            if not heard.is_silent:
                self.log.write(read)
        if heard.is_silent:
            return self._keep(Reply(at=now(), ask=ask.ask, what="stream", status=0, code=heard.error))
        return read

    def _keep(self, reply: Reply) -> Reply:
        self.log.write(reply)
        return reply


class _Heard:
    """What comes over one connection."""

    def __init__(self, response: str, on_begun: Callable[[], None]) -> None:
        self.error = "empty"
        self._on_begun = on_begun
        self._response = response
        self._events: list[Event] = []
        self._end = ""

    @property
    def is_silent(self) -> bool:
        """Nothing has come."""
        return not self._events and not self._end

    async def listen(self, reply: httpx.Response, drop_after: int | None) -> None:
        """Take events until the last one, or so many."""
        async with aclosing(_events(reply)) as events:
            async for event_id, data in events:
                self._take(event_id, data)
                if len(self._events) == drop_after and not self._end:
                    self._end = "dropped"
                if self._end:
                    return

    def fields(self) -> dict[str, Any]:
        """Those of a Read."""
        return {"response": self._response, "events": self._events, "end": self._end or "broken"}

    def _take(self, event_id: str, data: Mapping[str, Any]) -> None:
        if not event_id:
            self._end = str(data["code"])
            return
        if not self._events:
            self._on_begun()
        self._response = self._response or data["response"]["id"]
        self._events.append(_event_of(event_id, data))
        if data["type"] in ENDS:
            self._end = "ended"


def _timeout(read_s: float) -> httpx.Timeout:
    return httpx.Timeout(read_s, connect=CONNECT_TIMEOUT_S)


def _reply_of(ask: Ask, what: str, status: int, content: bytes) -> Reply:
    try:
        body = json.loads(content)
    except ValueError:  # a proxy's own page
        return Reply(at=now(), ask=ask.ask, what=what, status=status, code="no JSON")
    if status >= 400:
        error = body["error"]
        active = _RESPONSE_ID.search(error["message"]) if status == 409 else None
        return Reply(
            at=now(), ask=ask.ask, what=what, status=status, code=error["code"], active=active[0] if active else ""
        )
    return Reply(
        at=now(),
        ask=ask.ask,
        what=what,
        status=status,
        response=body["id"],
        state=body["status"],
        text=_text(body),
    )


def _event_of(event_id: str, data: Mapping[str, Any]) -> Event:
    kind, seq = data["type"], data["sequence_number"]
    if kind in ENDS:
        return Event(seq, event_id, kind, _text(data["response"]), data["response"]["status"])
    return Event(seq, event_id, kind, data.get("delta", ""))


def _text(response: Mapping[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


async def _events(reply: httpx.Response) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Id ("" where there is none) and data of each event; comments are none. A last one that is cut off is none either."""
    rest = b""
    async for data in reply.aiter_bytes():
        *blocks, rest = (rest + data).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if not line.startswith(b":"))
            if b"data" in fields:
                yield fields.get(b"id", b"").decode(), json.loads(fields[b"data"])
