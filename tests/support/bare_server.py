"""Bare uvicorn with the paced engine in its process: what any front can at best cost.

It emits the same bytes as the gateway does (ids and times of its own apart): ``shape`` is a stream that was captured
from one. Everything about a token is computed beforehand, so that an event is three pieces of bytes put together.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from cluster.engine.client import StepOutput
from cluster.protocol import Finish, GenerateRequest, SamplingParams, Tokens
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from tests.fakes.paced_engine import paced_engine

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_ID = re.compile(rb'"id":"chatcmpl-[0-9a-f]{32}"')
_CREATED = re.compile(rb'"created":\d{10}')
_CONTENT = re.compile(rb'"content":"[^"]+"')


def neutral(stream: bytes) -> bytes:
    """A stream without what differs from answer to answer."""
    return _CREATED.sub(b'"created":@', _ID.sub(b'"id":"@"', stream))


class BareServer:
    """The application. ``shape`` holds a whole stream of the gateway: role, one event a token, finish, ``[DONE]``."""

    def __init__(self, model_path: str, shape: bytes) -> None:
        tokenizer = ChatGLM3Tokenizer.from_pretrained(model_path)
        self._engine = paced_engine(model_path)
        events = [event + b"\n\n" for event in neutral(shape).split(b"\n\n")[:-1]]
        self._opening, token, *_, finish, done = events
        self._closing = finish + done
        self._token = _CONTENT.sub(b'"content":%', token)
        self._texts = {i: json.dumps(tokenizer.piece(i).replace("▁", " ")).encode() for i in self._engine.ids}
        self._queues: dict[int, asyncio.Queue[Tokens | Finish]] = {}
        self._attempts = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's beginning and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = json.loads(await _body(receive))
        await self._stream(dict(scope["headers"])[b"x-request-id"].decode(), body["max_tokens"], send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._engine.start(self._deliver)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._engine.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        for attempt, output in outputs:
            self._queues[attempt].put_nowait(output)

    async def _stream(self, request_id: str, max_tokens: int, send: Send) -> None:
        attempt = next(self._attempts)
        queue = self._queues[attempt] = asyncio.Queue()
        sampling = SamplingParams(max_new_tokens=max_tokens)
        await self._engine.submit(
            GenerateRequest(attempt=attempt, request_id=request_id, tenant="", prompt_ids=[], sampling=sampling)
        )
        opening, before, after, closing = self._pieces()
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _write(send, opening)
        while isinstance(output := await queue.get(), Tokens):
            for token_id in output.ids:
                await _write(send, before + self._texts[token_id] + after)
        await _write(send, closing)
        await send({"type": "http.response.body", "body": b""})
        del self._queues[attempt]

    def _pieces(self) -> list[bytes]:
        """The answer's fixed bytes: its opening, what stands around a token's text, its closing."""
        answer = f'"id":"chatcmpl-{uuid.uuid4().hex}"'.encode(), f'"created":{int(time.time())}'.encode()
        before, after = self._token.split(b"%")
        pieces = self._opening, before, after, self._closing
        return [piece.replace(b'"id":"@"', answer[0]).replace(b'"created":@', answer[1]) for piece in pieces]


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message: Any = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _write(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--shape", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    app = BareServer(options.model, options.shape.read_bytes())
    uvicorn.run(app, port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
