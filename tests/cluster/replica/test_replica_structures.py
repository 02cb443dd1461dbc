"""A replica's engine gives answers the structure that was asked for, in a thread or in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import InvalidRequestError
from cluster.protocol import FinishReason, GenerateRequest, SamplingParams, Structure, StructureKind
from cluster.replica.config import ReplicaConfig
from cluster.replica.engine import build_engine
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turns.projection import Projection
from tests.fakes.listener import Listener

TINY = Path(__file__).parents[2] / "parity" / "data" / "tiny"
TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99, "minimum": 0}}, "required": ["n"]}


def asking(attempt: int, schema: object) -> GenerateRequest:
    structure = Structure(kind=StructureKind.JSON_SCHEMA, text=json.dumps(schema))
    sampling = SamplingParams(max_new_tokens=200, stop_ids=TOKENIZER.stop_ids, structure=structure, seed=1)
    prompt = [TOKENIZER.gmask_id, TOKENIZER.sop_id, *TOKENIZER.encode_text("?"), TOKENIZER.role_id("assistant")]
    return GenerateRequest(attempt=attempt, request_id="", tenant="a", prompt_ids=prompt, sampling=sampling)


@pytest.mark.parametrize("engine_process", [False, True])
async def test_answers_of_a_replica_have_their_structure(engine_process: bool) -> None:  # noqa: FBT001 -- a parameter
    """Guides are made where the engine is; a wrong schema is refused from there with its reason."""
    config = ReplicaConfig(
        str(TINY), device="cpu", dtype="float32", threads=1, kv_cache_bytes=None, engine_process=engine_process
    )
    engine, listener = build_engine(config), Listener()
    await engine.start(listener)
    try:
        await engine.submit(asking(1, SCHEMA))
        with pytest.raises(InvalidRequestError, match="'not' is not supported"):
            await engine.submit(asking(2, {"not": {}}))
        finish = await listener.finish(1)
    finally:
        await engine.stop()
    assert finish.reason is FinishReason.STOP
    projection = Projection(TOKENIZER)
    projection.push(listener.ids[1])
    projection.close()
    assert set(json.loads(projection.text)) == {"n"}
