"""Chat chunks as bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol import Served
from services.gateway.deps import ModelInfo
from services.gateway.rendering.chat import ChatRendering
from services.gateway.schemas.chat_completion import ChunkDelta
from services.turns.events import EventKind, TurnEvent, TurnStarted

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
