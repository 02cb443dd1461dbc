"""Chat chunks as bytes."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol import FinishReason, Served, Usage
from cluster.tokenizer.tool_calls import ToolCall
from services.gateway.deps import ModelInfo
from services.gateway.rendering.chat import ChatRendering
from services.gateway.schemas.chat_completion import ChunkDelta
from services.turns.events import EventKind, TurnEvent, TurnResult, TurnStarted

USAGE = Usage(prompt_tokens=7, cached_tokens=0, output_tokens=2)
STARTED = TurnStarted("", "msg_1", None, Served(rank=0, incarnation="a", why="pinned"), 1, 10, 1_700_000_000)


@given(st.text(min_size=1), st.text(), st.booleans())
def test_a_text_chunk_is_what_its_schema_would_write(text: str, name: str, include_usage: bool) -> None:  # noqa: FBT001 - drawn
    """Written from pieces for speed, it has the same bytes, whatever the text and the model's name hold."""
    model = ModelInfo(name, 1, 2048, '"content":""')
    rendering = ChatRendering(
        STARTED, completion_id="chatcmpl-1", call_id="call_1", model=model, include_usage=include_usage
    )
    written = rendering.frames(TurnEvent(4, 0, EventKind.TEXT_DELTA, text))
    assert written == rendering._chunk(ChunkDelta(content=text))


def test_calls_of_several_answers_have_ids_of_their_own() -> None:
    """Streamed or whole, each choice's call has the same id of its own."""
    calls = [ToolCall("weather", {"city": city}) for city in ("Rome", "Oslo")]
    results = tuple(TurnResult(FinishReason.STOP, "", (5,), USAGE, call=call) for call in calls)
    rendering = ChatRendering(
        STARTED, completion_id="chatcmpl-1", call_id="call_1", model=ModelInfo("m", 1, 2048, "fp"), choices=2
    )
    streamed = b"".join(
        rendering.frames(TurnEvent(4, 0, EventKind.TOOL_CALL, call=call, choice=i)) for i, call in enumerate(calls)
    )
    last = TurnEvent(9, 0, EventKind.COMPLETED, result=replace(results[0], choices=results))
    assert last.result is not None
    whole = json.loads(rendering.whole(last, last.result))["choices"]
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in whole]
    assert len(set(ids)) == 2
    assert [choice["finish_reason"] for choice in whole] == ["tool_calls", "tool_calls"]
    assert [streamed.count(b'"id":"%s"' % call_id.encode()) for call_id in ids] == [1, 1]
    assert [streamed.count(b'"index":%d,"delta"' % i) for i in range(2)] == [2, 2]
